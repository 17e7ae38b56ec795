"""The verb `fpn_neck.cli.export` as a program."""

from fpn_neck.utils.command_line import run_verb

if __name__ == "__main__":
    run_verb("export")
