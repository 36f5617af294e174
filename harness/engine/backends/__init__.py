"""The runtimes that quantgate can drive: `diffusers` in the engine, `command` for any other program."""
