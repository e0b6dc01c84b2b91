"""Result files and their tables."""

from benchmarks.harness.publish import Column, Table, publish, tabulate


def test_publish_prints_and_writes_markdown(tmp_path, capsys):
    table = Table(("method", "accuracy, %"), [("deep", "90.1"), ("compact", "9.5")], "of two")
    publish("example", {"seeds": [0]}, {"deep": 0.901}, table, results_dir=tmp_path)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "of two" and printed[-1] == str(tmp_path / "example.json")
    lines = (tmp_path / "example.md").read_text().splitlines()
    assert lines[0] == "# example" and "seeds `[0]`" in lines[2]
    assert lines[4:] == [
        "of two",
        "",
        "| method  | accuracy, % |",
        "|---------|-------------|",
        "| deep    |        90.1 |",
        "| compact |         9.5 |",
    ]


def test_tabulate_reads_nested_keys_and_functions_and_shows_none_as_dash():
    columns = (
        Column("name", "name"),
        Column("time", "time.median", "{:.1f}"),
        Column("double", lambda record: 2 * record["size"], "{:,}"),
    )
    records = [
        {"name": "a", "time": {"median": 0.25}, "size": 1000},
        {"name": "b", "time": {"median": None}, "size": 1},
    ]
    table = tabulate(columns, records, "title")
    assert table == Table(
        ["name", "time", "double"], [["a", "0.2", "2,000"], ["b", "–", "2"]], "title"
    )
