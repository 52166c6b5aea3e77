"""What kubelet knows of this machine's devices: which GPU it gave to which container (the pod-resources API)."""
