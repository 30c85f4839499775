"""The commands of `l2p`, a file for each kind; every module has `add_to(app)`."""
