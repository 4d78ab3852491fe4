"""Values of any kind in the nodes' inputs: a finding and a fallback, or a clear end of the run; never a TypeError."""

from __future__ import annotations

import importlib
import json
import math
import time

import pytest
import torch
from onediff_pack.proving.proof import Proof

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
models = importlib.import_module("models")

pytestmark = pytest.mark.usefixtures("host")


class Exits:
    armed = False  # pytest shows values too

    def __repr__(self):
        if self.armed:
            raise SystemExit(2)
        return "Exits()"


class ExitingText(Exits, str):
    pass


class ExitingNumber(Exits, int):
    __hash__ = None  # type: ignore[assignment]

    def _exit(self, *_):
        if self.armed:
            raise SystemExit(2)
        return True

    __eq__ = __bool__ = __ge__ = __le__ = __lt__ = __gt__ = _exit  # type: ignore[assignment]


class ExitingAttributes:
    def __getattr__(self, name):
        raise SystemExit(2)


#: What JSON can hold, and what other nodes can give.
ODD = {
    "a list": ["all"],
    "a dict": {"a": 1},
    "a number": 5,
    "none": None,
    "NaN": math.nan,
    "a tensor": torch.ones(2),
    "a long text": "no" * 10**6,
    "half a letter": "\ud800",
    "what exits when it is shown": [Exits(), {"a": Exits()}],
    "a text that exits when it is shown": ExitingText("no such"),
    "a number that exits when it is compared": ExitingNumber(5),
    "a deep list": json.loads("[" * 500 + "]" * 500),
}


@pytest.fixture(scope="module")
def patcher():
    return models.unet_patcher()


def hidden(node: str = "7", workflow: str | None = None):
    from comfy_api.latest import io

    pnginfo = {"workflow": {"id": workflow}} if workflow else None
    return {"hidden_inputs": {io.Hidden.unique_id: node, io.Hidden.extra_pnginfo: pnginfo}}


def execute(node, **inputs):
    """Runs a node as ComfyUI does; gives its record, as its listeners get it."""
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Exits, "armed", True)
        output = node.PREPARE_CLASS_CLONE(hidden()).execute(**inputs)
    return strict(output.ui["onediff"][0])


def strict(record):
    """A record that went through JSON as a browser reads it: there is no NaN, and no half letter."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    assert len(text.encode()) < 50_000
    return json.loads(text)


def nodes():
    from onediff_pack.nodes.compile import OneDiffCompile
    from onediff_pack.nodes.forward_check import OneDiffForwardCheck
    from onediff_pack.nodes.patch_attention import OneDiffPatchAttention

    return {
        OneDiffPatchAttention: {"processor": "auto", "sites": "all", "blocks": "", "quality": "exact", "custom": None},
        OneDiffForwardCheck: {"on_problem": "report"},
        OneDiffCompile: {
            "backend": "auto",
            "scope": "blocks",
            "effort": "fast start",
            "if_unfit": "run uncompiled",
            "keep_faster": True,
        },
    }


CASES = [(node, name) for node, inputs in nodes().items() for name in inputs if name != "blocks"]


@pytest.fixture
def no_backend(monkeypatch):
    from onediff_pack.nodes import compile as node
    from sessions import known

    monkeypatch.setattr(node, "PROOFS", known(inductor=Proof(True, "stands in.", 0.0)))


@pytest.mark.parametrize(("node", "name"), CASES, ids=[f"{node.__name__}.{name}" for node, name in CASES])
@pytest.mark.usefixtures("no_backend")
def test_an_odd_value_is_a_finding_and_the_model_goes_on(patcher, monkeypatch, node, name):
    if node.__name__ == "OneDiffForwardCheck":
        from onediff_pack.checks import Report
        from onediff_pack.nodes import forward_check

        monkeypatch.setattr(forward_check, "check_model", lambda *args, **options: Report(1, 1, ()))
    for kind, value in ODD.items():
        if name == "custom" and value is None:
            continue
        record = execute(node, model=patcher, **{**nodes()[node], name: value})
        said = [f for f in record["check"]["findings"] if f["path"] == name]
        if name == "backend" and kind in ("half a letter", "a text that exits when it is shown"):
            continue  # a name like any other that is not known: the record's reason says so
        assert len(said) == 1, kind
        assert said[0]["severity"] == "warning"
        assert "used" in said[0]["what"]
        assert len(said[0]["what"]) < 300, kind


@pytest.mark.parametrize("kind", [kind for kind, value in ODD.items() if not isinstance(value, str)])
def test_blocks_that_are_no_text_mean_all_places_and_that_is_said(patcher, kind):
    from onediff_pack.nodes.patch_attention import OneDiffPatchAttention

    inputs = nodes()[OneDiffPatchAttention]
    record = execute(OneDiffPatchAttention, model=patcher, **{**inputs, "blocks": ODD[kind]})
    assert len(record["patches"]["sites"]) == 14
    # On a busy machine a note says that the folder of processors is still being listed.
    said = [finding["severity"] for finding in record["check"]["findings"] if finding["path"] == "blocks"]
    assert said == ["warning"]


@pytest.mark.parametrize(
    ("blocks", "words"),
    [("[" * 100_000, "blocks has 100,000 letters; 2,000 are the most"), ("[" * 2_000, "matches no")],
)
def test_blocks_that_are_too_long_or_match_nothing_end_the_run_at_once(patcher, blocks, words):
    from onediff_pack.nodes.patch_attention import OneDiffPatchAttention
    from onediff_pack.status import HUB

    start = time.process_time()
    with pytest.raises(ValueError, match=r"Patch Attention Processors \(node 7\): blocks") as error:
        execute(OneDiffPatchAttention, model=patcher, **{**nodes()[OneDiffPatchAttention], "blocks": blocks})
    assert time.process_time() - start < 5
    assert words in str(error.value)
    record = strict(HUB.snapshot()["-:7"])
    assert record["state"] == "failed"
    assert words in record["check"]["findings"][0]["what"]


@pytest.mark.parametrize("kind", ODD)
def test_a_model_that_is_none_ends_the_run_with_what_to_do(kind):
    from onediff_pack.nodes.speed_report import OneDiffSpeedReport

    report = {"positive": [], "negative": [], "latent": {}, "steps": 1, "cfg": 1.0}
    for node, inputs in {**nodes(), OneDiffSpeedReport: report}.items():
        with pytest.raises(ValueError, match=r"\(node 7\): model is .*, not a MODEL\. Connect a node that loads one\."):
            execute(node, model=ODD[kind], **inputs)


@pytest.mark.parametrize("name", ["positive", "negative", "latent"])
@pytest.mark.parametrize("kind", ODD)
def test_a_speed_report_without_something_to_sample_ends_with_what_to_do(patcher, name, kind):
    from onediff_pack.nodes.speed_report import OneDiffSpeedReport

    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    inputs = {"positive": [], "negative": [], "latent": latent, "steps": 1, "cfg": 1.0, name: ODD[kind]}
    with pytest.raises(ValueError, match=rf"Speed Report \(node 7\): {name} is .*Connect"):
        execute(OneDiffSpeedReport, model=patcher, **inputs)


@pytest.mark.parametrize(
    ("value", "used"),
    [(8, 8), (1, 1), (200.0, 200), (10**9, 200), (0, 1), (-math.inf, 1), (math.nan, 8), ("8", 8), (True, 8), ([8], 8)],
)
def test_a_number_is_within_its_limits_or_that_is_said(value, used):
    from onediff_pack.host.known_values import number_given

    findings = []
    assert number_given("N", "steps", value, 8, 1, 200, findings) == used
    assert len(findings) == (0 if value in (8, 1, 200.0) and value is not True else 1)


def test_ids_that_fill_pages_are_cut_and_stay_apart():
    from onediff_pack.host.server import _workflow_id, new_record
    from onediff_pack.nodes.patch_attention import OneDiffPatchAttention

    own = "0f8fad5b-d9cb-469f-a165-70867728950e"
    assert _workflow_id({"workflow": {"id": own}}) == own
    records = [
        new_record(OneDiffPatchAttention.PREPARE_CLASS_CLONE(hidden("9" * 10**6 + end, "w" * 10**6 + end)).hidden)
        for end in "ab"
    ]
    assert len({record.key for record in records}) == 2
    assert all(len(record.key) < 300 for record in records)


@pytest.mark.usefixtures("no_backend")
def test_what_could_not_be_listed_is_on_the_record(patcher, tmp_path, monkeypatch):
    from onediff_pack.host import offered_processors as processor_choice
    from onediff_pack.nodes.patch_attention import OneDiffPatchAttention
    from onediff_pack.processors.sources.custom import CustomProcessors

    monkeypatch.setattr(processor_choice, "CUSTOM", CustomProcessors(lambda: [tmp_path / "attention_processors"]))
    (tmp_path / "attention_processors" / "sub").mkdir(parents=True)
    for n in range(8):
        (tmp_path / "attention_processors" / f"large{n}.py").write_bytes(b"x" * 10**6)
    assert OneDiffPatchAttention.GET_SCHEMA().node_id == "OneDiffPatchAttention"
    assert "reference" in processor_choice.choices()
    inputs = nodes()[OneDiffPatchAttention]
    record = execute(OneDiffPatchAttention, model=patcher, **inputs)
    assert [f["severity"] for f in record["check"]["findings"]] == ["note"] * 6
    assert "/large0.py" in record["check"]["findings"][0]["where"]
    assert record["check"]["findings"][-1]["what"] == "3 more files cannot be listed"
    named = execute(OneDiffPatchAttention, model=patcher, **{**inputs, "processor": "custom/large1:Mine"})
    first = named["check"]["findings"][0]
    assert (first["severity"], first["what"]) == ("error", "custom/large1:Mine cannot be listed; sdpa is used instead")
    assert "larger than 256 KiB" in first["why"]
    assert len([f for f in named["check"]["findings"] if "large1" in f["where"]]) == 1


@pytest.mark.parametrize("cfg", [math.nan, math.inf, 1e308])
def test_a_speed_reports_figures_are_json_whatever_cfg_is(patcher, tmp_path, monkeypatch, cfg):
    """The samplings are a stand-in: what is asked is what becomes of their figures."""
    import folder_paths
    from onediff_pack.nodes import speed_report
    from onediff_pack.speed_report.difference import Difference
    from onediff_pack.speed_report.figures import Sampling, SpeedReport
    from onediff_pack.status import Record

    class BothWays:
        def __init__(self, model, positive, negative, latent, steps, cfg, file=None):
            self.model, self.cfg = model, cfg
            self.session = type("Session", (), {"record": Record(None, "7")})()

        def report(self, record):
            error = Difference(math.nan, math.inf)
            setup = {"cfg": self.cfg, "other": math.nan}
            return SpeedReport((Sampling(False, (10.0, 11.0)),), 2, error=error, setup=setup, reason="no " * 10**5)

    monkeypatch.setattr(speed_report, "BothWays", BothWays)
    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path))
    node = speed_report.OneDiffSpeedReport.PREPARE_CLASS_CLONE(hidden())
    inputs = {"positive": [], "negative": [], "latent": {"samples": torch.zeros(1, 4, 8, 8)}, "steps": 2}
    output = node.execute(model=patcher, cfg=cfg, **inputs)
    figures = json.loads(output.args[1], parse_constant=lambda token: pytest.fail(f"{token} is no JSON"))
    assert figures["setup"] == {"cfg": 8.0 if math.isnan(cfg) else 100.0, "other": None}
    assert any(note.startswith("cfg ") for note in figures["notes"])
    (finding,) = strict(output.ui["onediff"][0])["check"]["findings"]
    assert finding["path"] == "cfg"


def test_numbers_beyond_what_json_and_floats_hold_are_said_in_words():
    from onediff_pack.host.known_values import number_given
    from onediff_pack.status.plain import plain

    findings = []
    assert number_given("OneDiffSpeedReport", "cfg", 10**400, 8.0, 0.0, 100.0, findings) == 100.0
    assert len(findings) == 1
    assert json.dumps(plain({"seed": 10**5000, "small": 2**60}))


@pytest.mark.usefixtures("no_backend")
def test_a_record_says_what_its_figures_were_made_with(patcher):
    """The page compares it with what the node has now."""
    from onediff_pack.nodes.compile import OneDiffCompile
    from onediff_pack.nodes.patch_attention import OneDiffPatchAttention

    given = {**nodes()[OneDiffPatchAttention], "processor": "sdpa", "blocks": "*" * 600}
    record = execute(OneDiffPatchAttention, model=patcher, **given)
    assert record["settings"] == {"processor": "sdpa", "sites": "all", "quality": "exact"}, "what fits, as it is"
    given = {**nodes()[OneDiffCompile], "keep_faster": False, "scope": ["all"]}
    record = execute(OneDiffCompile, model=patcher, **given)
    assert record["settings"] == {
        **{"backend": "auto", "effort": "fast start", "if_unfit": "run uncompiled", "keep_faster": False}
    }


def test_an_object_that_exits_when_it_is_asked_is_no_model_no_vae_and_no_control_net(patcher):
    from onediff_pack.host.copies.control_net import is_control_net
    from onediff_pack.host.copies.vae import is_vae
    from onediff_pack.nodes.compile import OneDiffCompile

    assert not is_vae(ExitingAttributes()) and not is_control_net(ExitingAttributes())
    with pytest.raises(ValueError, match=r"\(node 7\): model is a ExitingAttributes, not a MODEL"):
        execute(OneDiffCompile, **{**nodes()[OneDiffCompile], "model": ExitingAttributes()})
