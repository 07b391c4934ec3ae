"""How the files of each kind of benchmark lie, and how their rows become prompts and answers: a file a layout.

Each has `read_task(root, name, reading, splits) -> TaskData`.
"""
