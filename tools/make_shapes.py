"""The verb `fpn_neck.cli.make_shapes` as a program."""

from fpn_neck.utils.command_line import run_verb

if __name__ == "__main__":
    run_verb("make_shapes")
