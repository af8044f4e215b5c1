"""Published snapshots (`.pkl` of MaTe3D and EG3D) to our state and config, executing nothing."""
