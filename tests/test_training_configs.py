import itertools
import json
import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import capture_parser, get_loader

from detmix.training import DetectionData, cli_main
from detmix.training.configs import load_config
from detmix.training.parser import run_parser
from detmix.training.trained import open_data, open_run

from .conftest import ROOT
from .hostile import changed, damaged, ending

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words
nests = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3))


@settings(max_examples=100, deadline=None)
@given(nests)
def test_what_is_within_bounds_is_read_as_ever(content):
    text = yaml.safe_dump(content)
    assert load_config(text) == get_loader("yaml")(text)


def test_anchors_may_be_used():
    assert load_config("a: &x {size: [1, 2]}\nb: *x\nc: *x") == {name: {"size": [1, 2]} for name in "abc"}


TWICE = {
    "at the top": "a: 1\nb: 2\na: 1",
    "in a section": "c:\n  a: 1\n  b: {c: 1}\n  'a': 2",
    "in a list": "- b: 1\n- {a: 1, a: 2}",
}


@pytest.mark.parametrize("text", TWICE.values(), ids=TWICE)
def test_a_key_that_stands_twice_is_refused(text):
    with pytest.raises(yaml.YAMLError, match="config.yaml: 'a' stands twice, in line [12] and in line [234]"):
        load_config(text, "config.yaml")
    assert load_config(text)  # as a value of the command line


def test_a_key_may_stand_once_in_each_section():
    text = "a: {a: 1, b: 2}\nb: [{a: 1}, {a: 2}]\n1: 1\n'1': 2"
    assert load_config(text, "a.yaml") == {"a": {"a": 1, "b": 2}, "b": [{"a": 1}, {"a": 2}], 1: 1, "1": 2}


def test_settings_may_be_merged_from_several_places():
    text = "x: &x {a: 1}\ny: &y {b: 2}\nz:\n  <<: *x\n  <<: *y\n  c: 3"
    assert load_config(text, "a.yaml")["z"] == {"a": 1, "b": 2, "c": 3}


def test_many_aliases_are_followed_once():
    chain = "\n".join(["a0: &a0 [1]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 12))])
    with ending(60):
        assert len(load_config(chain, "a.yaml")) == 12


def bomb(key, levels=9):
    """Each list holds the one before nine times."""
    names = "abcdefghi"[:levels]
    lines = [f"{names[0]}: &{names[0]} [{', '.join(['x'] * 9)}]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in itertools.pairwise(names)]
    return "\n".join([*lines, f"{key}: *{names[-1]}"])


ENDLESS = {
    "a bomb": (bomb("name"), "may have 1000000 characters"),
    "a bomb in a section": (bomb("data"), "may have 1000000 characters"),
    "a bomb of nothing": (bomb("name").replace("x", "[]"), "may have 1000000 characters"),
    "a bomb of text": (f"x: &x {'a' * 9999}\nname: [{', '.join(['*x'] * 101)}]", "may have 1000000 characters"),
    "itself": ("name: &a [*a]", r"\*a stands within what it stands for"),
    "brackets": ("name: " + "[" * 100_000, "exceeded maximum nesting depth"),
    "no text": ('data: "\\0"', "may not hold the character NUL"),
    "dashes": ("name:\n" + "- " * 100_000, "nested 50 deep; this one exceeds that"),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_a_config_that_grows_or_nests_without_end_is_refused(tmp_path, in_repository, capsys, case):
    require_refused(tmp_path / "config.yaml", *ENDLESS[case], capsys)


def require_refused(file, text, message, capsys):
    file.write_text(text)
    with ending(300):
        with pytest.raises(yaml.YAMLError, match=message):
            load_config(text, "")
        with pytest.raises(SystemExit) as ended:
            cli_main(["fit", f"--config={file}"])
        assert ended.value.code == 2
        assert re.search(rf"Problems parsing config: config\.yaml: .*{message}", capsys.readouterr().err, re.DOTALL)
        with pytest.raises(ValueError, match=r"config\.yaml"):
            open_run(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {lr: ._}", "a number or a date in it cannot be read: could not convert string to float"),
        ("model: {lr: 0x_}", "a number or a date in it cannot be read: invalid literal"),
        ("name: 0b_", "a number or a date in it cannot be read: invalid literal"),
        ("model: {lr: !!int abc}", "a number or a date in it cannot be read: invalid literal"),
        ("model: {lr: !!float abc}", "a number or a date in it cannot be read: could not convert string to float"),
        (f"name: {'1' * 5000}", "a number or a date in it cannot be read: Exceeds the limit"),
        ("name: !!timestamp abc", "a number or a date in it cannot be read"),
        ("config: {a: 1}", "a config has no key 'config'"),
        ("config: other.yaml", "a config has no key 'config'"),
        ("seed_everything: 1\nmodel:", "model has no settings by their names"),
        ("trainer: 3", "trainer has no settings by their names"),
        ("model: [lr]", "model has no settings by their names"),
        ("data: {run_seed: 1}", "data.run_seed follows seed_everything: set that"),
        ("data: !!omap [a: 1]", "data has no settings by their names"),
    ],
)
def test_a_config_with_a_number_or_a_section_that_is_none_or_with_another_config_is_refused(
    tmp_path, capsys, text, message
):
    require_refused(tmp_path / "config.yaml", text, message, capsys)


def test_a_value_of_a_command_line_is_no_config():
    assert load_config("{config: {a: 1}}") == {"config": {"a": 1}}


CONFIG = (ROOT / "configs" / "quickstart.yaml").read_bytes()


def test_what_is_wrong_in_overrides_is_not_said_of_the_config(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_bytes(CONFIG)
    for override, wanted in (
        ("--data.rooot=x", "^unrecognized arguments: --data.rooot=x; did you mean data.root[?]$"),
        ("--data.batch_size=x", '^Parser key "data.batch_size"'),
        ("--data.run_seed=1", '^Linked "data.run_seed" must be given via "seed_everything"'),
        ("--seed_everything=true", '^Parser key "seed_everything"'),
        ("--data.mixup.alhpa=1", "^data.mixup: Option 'alhpa' is not accepted; there are alpha, p, mix,"),
    ):
        with pytest.raises(ValueError, match=wanted):
            open_run(file, [override])
    file.write_text("model: {detektor: x}")
    with pytest.raises(ValueError, match="config.yaml: .*'detektor'; did you mean model.detector[?]$"):
        open_run(file, ["--data.rooot=x"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "mixupp: {alpha: 1}",
            "'mixupp.alpha' is not accepted; did you mean data.mixup.alpha or model.manifold.alpha[?]",
        ),
        ("data: {mixupp: null}", "'mixupp'; did you mean data.mixup[?]$"),
    ],
)
def test_a_misspelt_section_is_told_with_that_which_it_may_be(tmp_path, text, message):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        open_run(file)


@pytest.mark.parametrize(("stated", "wanted"), [("3", 3), ("0", 0), ("false", 0)])
def test_all_who_read_a_config_draw_from_its_seed_whatever_was_seeded_before(tmp_path, monkeypatch, stated, wanted):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    file = tmp_path / "config.yaml"
    file.write_text(f"seed_everything: {stated}\n")
    assert open_data(file).run_seed == open_run(file)[0].run_seed == wanted
    assert open_run(file, ["--seed_everything=4"])[0].run_seed == 4
    assert DetectionData().run_seed == 0
    parser = capture_parser(lambda: cli_main(["fit"]))
    assert parser.parse_args(["fit", f"--config={file}"]).fit.data.run_seed == wanted
    assert run_parser(["data"]).parse_args([f"--config={file}"]).data.run_seed == wanted


def test_a_trainer_in_a_file_of_its_own_is_left_alone(tmp_path):
    (tmp_path / "config.yaml").write_text("trainer: trainer.yaml")
    assert open_data(tmp_path / "config.yaml").run_seed == 0


@settings(max_examples=40, deadline=None)
@given(content=changed(yaml.safe_load(CONFIG)) | damaged(CONFIG))
def test_a_config_with_other_values_is_taken_or_refused(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("changed") / "config.yaml"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with ending(300), pytest.raises(SystemExit) as ended:
        cli_main(["fit", f"--config={file}", "--print_config"])
    assert ended.value.code in (0, 2)


def test_a_config_that_is_not_text_is_refused(tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_bytes(CONFIG + b"# \xff")
    with pytest.raises(SystemExit):
        cli_main(["fit", f"--config={file}"])
    assert "a config file is not text in UTF-8" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"config\.yaml: .*utf-8"):
        open_run(file)
