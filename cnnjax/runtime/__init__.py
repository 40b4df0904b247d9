"""What lies below a run: the platform and its settings, several processes, the mesh of devices."""
