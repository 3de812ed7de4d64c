"""``every_mode``: a test runs under each mode, and what differs or remains fails it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]

RIGHT = """
seen = []

@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout())

@pytest.mark.every_mode
def test_marked(model):
    seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
    return model(torch.randn(8, 4)), {"count": 3}

def test_has_run_three_times():
    assert seen == [(True, False), (False, False), (False, True)]
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()

@pytest.mark.parametrize("size", [1, 5])
def test_with_the_fixture(every_mode, size, model):
    output = every_mode(model, torch.ones(size + 1, 4))
    assert output.requires_grad == (every_mode.mode == "grad")
    every_mode.compare([size, float("nan"), "text", object()])

def test_an_argument_modified_in_place(every_mode, model, batch=None):
    model[0].weight.data.add_(1)
    return model[0].weight.sum()

class TestMethods:
    @pytest.mark.every_mode(modes=["no_grad", "inference_mode"])
    def test_it(self): assert not torch.is_grad_enabled()

@pytest.mark.every_mode
def test_skipped(): pytest.skip("for a reason")
"""

WRONG = """
kept = []
class Model(torch.nn.Module):
    def forward(self, x):
        self.last = x * 2
        return self.last

@pytest.mark.every_mode
def test_differs(): return torch.ones(2) * torch.is_grad_enabled()

def test_notes_differ(every_mode):
    if every_mode.mode != "no_grad": every_mode.compare(1)

@pytest.mark.every_mode
def test_leaves_a_mode(): torch.set_grad_enabled(True)

@pytest.mark.every_mode
def test_keeps_a_tensor(): kept.append(torch.ones(7))

@pytest.fixture(scope="module")
def model(): return Model()

@pytest.mark.every_mode
def test_keeps_it_in_a_module(model): model(torch.ones(3, 5))

@pytest.mark.every_mode(escapes=False)
def test_keeps_on_purpose(): kept.append(torch.ones(7))

@pytest.mark.every_mode
def test_needs_grad(): weight.sum().backward()

@pytest.mark.every_mode
async def test_async(): pass

def test_after():
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
"""


def test_right_tests_pass_once_with_parameters_fixtures_and_methods(run: Run) -> None:
    ended = run(RIGHT, "-q")
    ended.assert_outcomes(passed=6, skipped=1)
    assert "warning" not in ended.stdout.str()


def test_wrong_tests_fail_with_the_mode_and_the_reason(run: Run) -> None:
    ended = run(WRONG, "-q")
    ended.assert_outcomes(passed=2, failed=7)
    ended.stdout.fnmatch_lines_random(
        [
            "*the runs under grad and no_grad differ in the returned value: Tensor-likes are not close!*",
            "*the runs under grad and no_grad differ: 1 and 0 values noted",
            "*the run under no_grad left the mode at grad",
            "*1 inference tensor is still referenced after the run under inference_mode: (7,) torch.float32, held by kept*",
            "*inference_mode: (3, 5) torch.float32, held by model.last; clone what must*",
            "*gradprobe: in the run under no_grad",
            "*every_mode cannot run an async test*",
        ]
    )


def test_a_recording_shows_the_modes_at_the_line_of_the_test(run: Run) -> None:
    """Neither the blocks that enter the modes nor those that copy values are at lines of the plugin."""
    run(
        "@pytest.mark.every_mode\n"
        "def test_it():\n"
        "    return weight * 2\n"
        "@pytest.fixture(autouse=True)\n"
        "def look(gradprobe):\n"
        "    yield\n"
        "    regions = gradprobe.regions\n"
        "    assert list(regions['manager']) == ['enable_grad', 'no_grad', 'inference_mode']\n"
        "    assert set(regions['form']) == {'decorator'} and set(regions['line']) == {3}\n"
        "    assert set(regions['file']) == {__file__}\n"
    ).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("(mode='grad')", "unknown argument mode of every_mode; use one of modes,"),
        ("(modes=['x'])", "modes must be of grad"),
    ],
)
def test_a_wrong_marker_is_an_error_that_lists_what_is_known(configure: Run, marker: str, said: str) -> None:
    ended = configure(f"@pytest.mark.every_mode{marker}\ndef test_it(): pass\n")
    assert ended.ret == pytest.ExitCode.USAGE_ERROR
    assert said in ended.stderr.str() + ended.stdout.str()


def test_workers_and_a_recording_see_one_test(run: Run) -> None:
    pytest.importorskip("xdist")
    ended = run(RIGHT.split("def test_has_run")[0] + WRONG.split("def test_notes")[0], "-n", "1", "-q", "--gradprobe")
    ended.assert_outcomes(passed=1, failed=1)
    assert "the runs under grad and no_grad differ" in ended.stdout.str()
