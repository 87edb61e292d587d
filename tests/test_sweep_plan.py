"""What a sweep is made of: grids, named arms, and settings that are checked before anything runs."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detmix.sweep import make_plan
from detmix.sweep.plan import Plan, grid_arms, parse_grid, read_arms

QUICKSTART = "configs/quickstart.yaml"


@pytest.fixture
def plan(in_repository):
    def make(**options):
        return make_plan(in_repository / QUICKSTART, **options)

    return make


def test_a_grid_is_every_combination_and_its_runs_come_seed_by_seed(plan):
    sweep = plan(grid=["data.mixup.alpha=0,1.5", "model.objective=weighted,pair"], seeds=2)
    names = ["alpha=0, objective=weighted", "alpha=0, objective=pair"]
    assert list(sweep.arms)[:2] == names
    assert sweep.baseline == names[0]
    assert sweep.pairs == [(arm, seed) for seed in (0, 1) for arm in sweep.arms]
    assert sweep.arguments(names[1])[1:] == ["--data.mixup.alpha=0", "--model.objective=pair"]
    assert len({sweep.folder(*pair) for pair in sweep.pairs}) == 8


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ("alpha=0.2, objective=pair", "alpha=0.2_objective=pair"),
        ("{alpha: 1}", "alpha_1"),
        ("../up", ".._up"),
        ("x" * 300, "x" * 60),
    ],
)
def test_the_folder_of_a_run_is_named_after_its_arm_in_few_plain_letters(arm, words):
    plan = Plan(Path(QUICKSTART), {"plain": {}, arm: {}}, 3, "plain", {})
    assert plan.folder(arm, 2) == f"01-{words}-seed2"


def test_commas_inside_brackets_do_not_separate_values():
    grid = parse_grid(["data.mixup=null,{alpha: 1, p: 0.5},{alpha: 2}", "model.milestones=[0.5,0.9],[0.6,0.9]"])
    assert grid["data.mixup"] == ("null", "{alpha: 1, p: 0.5}", "{alpha: 2}")
    assert grid["model.milestones"] == ("[0.5,0.9]", "[0.6,0.9]")


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True), min_size=1, max_size=3))
def test_a_grid_has_the_product_of_its_values(values):
    arms = grid_arms(parse_grid([f"key{n}.x={','.join(map(str, of_key))}" for n, of_key in enumerate(values)]))
    size = 1
    for of_key in values:
        size *= len(of_key)
    assert len(arms) == size
    assert all(len(settings) == len(values) for settings in arms.values())


def test_named_arms_keep_their_order_and_their_values_are_the_trainers(plan, tmp_path):
    file = tmp_path / "arms.yaml"
    file.write_text("arms: {plain: {data.mixup: null}, 'off': {}, odd: {model.manifold: {layers: [input, roi]}}}")
    sweep = plan(arms_file=file, baseline="odd")
    assert sweep.arms == {
        "plain": {"data.mixup": "null"},
        "off": {},
        "odd": {"model.manifold": '{"layers": ["input", "roi"]}'},
    }
    assert sweep.baseline == "odd"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arms: {off: {}}", "YAML takes on, off, yes and no for true and false"),
        ("arms: [plain]", "wanted one key, arms"),
        ("arms: {plain: {}}\nseeds: 3", "wanted one key, arms"),
        ("arms: {plain: 3}", "arm plain: wanted settings such as"),
        ("arms: {plain: {", "not YAML"),
        (
            "arms:\n  plain: {model.lr: 1}\n  plain: {model.lr: 2}",
            "yaml: 'plain' stands twice, in line 2 and in line 3",
        ),
    ],
)
def test_a_file_of_arms_in_another_form_is_named(text, message, tmp_path):
    file = tmp_path / "arms.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as told:
        read_arms(file)
    assert str(file) in str(told.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("data.mixup.alfa=0,1", r"arm alfa=0: .*data\.mixup.*'alfa' is not accepted"),
        ("model.goal=pair,weighted", r"arm goal=pair: .*model\.goal"),
        ("model.objective=weighted,pear", r"arm objective=pear: .*Got value: pear"),
        ("data.batch_size=2,0.5", r"arm batch_size=0\.5: .*int.*0\.5"),
        ("data.mixup.alpha=1,high", r"arm alpha=high: .*float.*high"),
        ("name=a,b", "name is set by the sweep itself"),
        ("seed_everything=1,2", "seed_everything is set by the sweep itself"),
        ("seed=1,2", "seed, which the trainer takes for seed_everything, is set by the sweep itself"),
        ("data.mixup.alpha", "must be KEY=VALUE,VALUE"),
        ("data.mixup.alpha=1,,2", "must be KEY=VALUE,VALUE"),
        ("data.mixup.alpha=1,1", "once only"),
    ],
)
def test_a_wrong_key_or_value_is_told_before_anything_runs(entry, message, plan):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        plan(grid=[entry])


def test_a_config_that_needs_a_file_beside_it_is_refused_since_runs_are_trained_from_a_copy(tmp_path, in_repository):
    (tmp_path / "data.yaml").write_text("format: shapes")
    config = tmp_path / "config.yaml"
    config.write_text("data: data.yaml")
    with pytest.raises(ValueError, match=r"config\.yaml, from a copy in another folder.*(?s:.)*data\.yaml"):
        make_plan(config, grid=["data.mixup.alpha=0,1"])


def test_wrong_settings_of_all_arms_and_other_mistakes_are_told(plan, tmp_path):
    grid = ["data.mixup.alpha=0,1"]
    with pytest.raises(ValueError, match="max_steepness"):
        plan(grid=grid, common=["--trainer.max_steepness=3"])
    with pytest.raises(ValueError, match="runs is set by the sweep itself"):
        plan(grid=grid, common=["--runs", "elsewhere"])
    for short in ("--seed=5", "--run=x", "--nam", "--ckpt=x", "-c", "-cother.yaml"):
        with pytest.raises(ValueError, match="which the trainer takes for .* is set by the sweep itself"):
            plan(grid=grid, common=[short])
    with pytest.raises(ValueError, match="one of the arms, alpha=0, alpha=1; got alpha=2"):
        plan(grid=grid, baseline="alpha=2")
    with pytest.raises(ValueError, match="seeds must be 1 or more, got 0"):
        plan(grid=grid, seeds=0)
    with pytest.raises(ValueError, match="a sweep compares arms, and alpha=1 is the only one: "):
        plan(grid=["data.mixup.alpha=1"])
    with pytest.raises(ValueError, match="either --set"):
        plan()
    with pytest.raises(FileNotFoundError, match="no such file of arms"):
        plan(arms_file=tmp_path / "nowhere.yaml")
    with pytest.raises(FileNotFoundError, match="no such config file"):
        make_plan(tmp_path / "nowhere.yaml", grid=grid)


def test_files_that_are_not_text_are_named(tmp_path):
    file = tmp_path / "latin.yaml"
    file.write_bytes("arms: {français: {}}".encode("latin-1"))
    for read in (read_arms, lambda config: make_plan(config, grid=["data.mixup.alpha=0,1"])):
        with pytest.raises(ValueError, match=r"latin\.yaml: not text in UTF-8"):
            read(file)
