from pathlib import Path

import pytest

from misstep.core.errors import SettingsError
from misstep.core.exits import Exit
from misstep.core.settings import Settings, keys, load


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_defaults(tmp_path: Path) -> None:
    settings = load(environ={"HOME": str(tmp_path)})
    assert settings.collector.port == 7663
    assert settings.agent.receiver_port == 7664
    assert settings.collector.host == "127.0.0.1"


def test_default_ports_are_outside_the_range_of_rays_workers() -> None:
    settings = Settings()
    for port in (settings.collector.port, settings.collector.otlp_port, settings.agent.receiver_port):
        assert not 10002 <= port <= 19999


def test_precedence_is_file_environment_flags(tmp_path: Path) -> None:
    write(tmp_path / "misstep.toml", "site = 'file'\n[collector]\nport = 1\notlp_port = 1\nhost = '::1'\n")
    environ = {"MISSTEP_COLLECTOR_PORT": "2", "MISSTEP_COLLECTOR_OTLP_PORT": "2", "HOME": str(tmp_path)}
    settings = load(environ=environ, overrides={"collector.port": 3, "collector.host": None})
    assert (settings.collector.port, settings.collector.otlp_port) == (3, 2)
    assert (settings.collector.host, settings.site) == ("::1", "file")


def test_the_working_folder_comes_before_the_home(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "HOME": str(tmp_path)}
    write(tmp_path / "config" / "misstep" / "misstep.toml", "site = 'home'")
    assert load(environ=environ).site == "home"
    write(tmp_path / "misstep.toml", "site = 'here'")
    assert load(environ=environ).site == "here"


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read .*nowhere.toml"):
        load(tmp_path / "nowhere.toml", environ={})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[collector]\nprot = 1", "unknown setting 'collector.prot'; did you mean collector.port?"),
        ("[agnet]\ninterval = 1", "did you mean agent.interval?"),
        ("zzz = 1", "unknown setting 'zzz'; known are data, site"),
        ("[collector]\nport = 'x'", "collector.port = 'x' is not a number"),
        ("[collector]\nport = -1", "is not a number, 0 or more"),
        ("[collector]\nport = true", "is not a number"),
        ("site = 3", "site = 3 is not str"),
        ("site = ", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_the_way_out(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "misstep.toml", text)
    with pytest.raises(SettingsError) as caught:
        load(path, environ={})
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.exit == Exit.USAGE


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(SettingsError, match=r"MISSTEP_AGENT_INTERVAL: agent\.interval = 'often'"):
        load(environ={"MISSTEP_AGENT_INTERVAL": "often"})


def test_an_unknown_flag_is_a_mistake_of_ours() -> None:
    with pytest.raises(SettingsError, match=r"command line: unknown setting 'collector\.prt'"):
        load(environ={}, overrides={"collector.prt": 1})


def test_types(tmp_path: Path) -> None:
    path = write(tmp_path / "s.toml", "data = '~/d'\n[collector]\ntrust_user = ['grafana', 'prometheus']\n")
    settings = load(path, environ={"MISSTEP_AGENT_INTERVAL": "0.5"})
    assert settings.data == Path.home() / "d"
    assert settings.collector.trust_user == ("grafana", "prometheus")
    assert settings.agent.interval == 0.5
    assert load(environ={"MISSTEP_COLLECTOR_TRUST_USER": "a,b"}).collector.trust_user == ("a", "b")


def test_every_key_can_be_set_by_its_variable() -> None:
    values = {"data": "/d", "site": "s", "token": "t", "collector_url": "http://c"}
    default = Settings()
    for key in keys():
        table, _, name = key.rpartition(".")
        owner = getattr(default, table) if table else default
        value = getattr(owner, name)
        text = values.get(key) or ("7" if isinstance(value, int | float) else "word")
        changed = load(environ={"MISSTEP_" + key.upper().replace(".", "_"): text})
        assert changed != default, key
