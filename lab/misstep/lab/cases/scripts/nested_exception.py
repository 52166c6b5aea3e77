"""Counts words of documents; the parser meets a record that it does not know."""

import ray


def field(record, name):
    return record[name]


@ray.remote
def parse(record):
    return field(record, "text").split()


@ray.remote
def chapter(records):
    return sum(len(words) for words in ray.get([parse.remote(record) for record in records]))


@ray.remote
def book(chapters):
    return sum(ray.get([chapter.remote(records) for records in chapters]))


ray.init()
good, bad = [{"text": "a b c"}] * 3, [{"text": "a b"}, {"title": "no text here"}]
print(ray.get(book.remote([good, good, bad])))
