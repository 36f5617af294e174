"""Clips in memory and on disk, what two of them have in common, and what one gives away about itself.

``clip`` reads and writes. ``compare`` holds a candidate against its golden, metric by metric (``metrics``,
``registry``), over one pass (``statistics``, ``kernels``). ``sanity`` looks at one clip alone.
"""
