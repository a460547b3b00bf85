"""Markdown for the pages of MLflow."""

from mlp_jax.tracking.links import code, spaced


def test_the_columns_of_a_table_have_room_between_them():
    table = "| run | loss |\n| --- | --: |\n| a \\| b | 0.1 |\n"
    assert spaced(table) == ("| run&emsp;| loss&emsp;|\n| --- | --: |\n| a \\| b&emsp;| 0.1&emsp;|")


def test_a_long_command_is_broken_before_its_keys():
    assert code("train +exp=xor") == "```\ntrain +exp=xor\n```"
    long = "python -m mlp_jax.train -m +exp=table 'data.path=a b.csv' seed=1 " + "name=" + "x" * 40
    lines = code(long).split("\n")[1:-1]
    assert max(map(len, lines)) < 60
    assert "".join(line.removesuffix("\\").removeprefix("    ") for line in lines) == long
