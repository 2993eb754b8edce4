from tu_train.methods.listing import COLUMNS, print_methods
from tu_train.methods.table import METHODS


def test_the_table_has_a_line_for_every_method_with_its_options_and_needs(capsys):
    print_methods()
    head, *lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert tuple(head) == COLUMNS
    assert [line[0] for line in lines] == list(METHODS)
    found = {line[0]: dict(zip(COLUMNS, line, strict=True)) for line in lines}
    assert found["satimp"]["options"] == "beta1=5 beta2=1"
    assert found["dpo"]["needs"] == "reference, refusal" and found["npo"]["paper"] == "arXiv 2404.05868"
