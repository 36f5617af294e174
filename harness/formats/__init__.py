"""Number formats of quantized checkpoints: codecs, file headers, declarations, and dialects of tensor names.

Needs numpy and ml_dtypes only (``gguf`` is imported when a GGUF file is read). Opens no file and runs no check: callers
pass bytes or a function that reads them.
"""
