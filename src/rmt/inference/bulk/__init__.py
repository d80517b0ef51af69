"""Bulk inference: a network over any number of images, with the answers in one file.

`stream.py` reads and runs, `work.py` says what is computed of a batch, `rows.py` makes rows of it, `answers.py` keeps
them in parts until the file is whole, `ray_engine.py` has several networks work at the same time.
"""
