"""Stores: where data is. `base` is the contract, `door` the only way to open one."""
