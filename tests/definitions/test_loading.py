"""What a person sees: which case a file gives, and what is said of a wrong one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from harness.definitions.case import Case, Waiver
from harness.definitions.loading import check_cases, check_unique, load_cases
from harness.errors import InvalidCaseError


def waiver(expect: str, days: int = 30) -> str:
    """A case with a waiver that ends in so many days."""
    ends = (date.today() + timedelta(days=days)).isoformat()
    return f"{{waiver: {{expect: '{expect}', owner: o, reason: r, issue: 'https://x', expires: {ends}}}}}"


LINE = 6
"""First line of a case in a text that starts with ``cases:`` after the four lines of defaults."""


def test_defaults_are_merged_deeply_and_lists_replaced(load):
    (located,) = load(
        """\
        cases:
          one:
            runners: [h200]
            sampling: {width: 128}
        """
    )
    assert located.case.runners == ("h200",)
    assert (located.case.sampling.width, located.case.sampling.height) == (128, 64)
    assert located.place == f"cases/a.yaml:{LINE}"


def test_a_bare_id_is_all_defaults(load):
    (located,) = load("cases:\n  one:\n")
    assert located.case.id == "one"


def test_a_checkpoint_never_inherits_the_revision_of_another(load):
    (located,) = load(
        f"""\
        defaults:
          runners: [cpu]
          model: {{path: a/b, revision: {"0" * 39}a}}
          sampling: {{prompt: p, width: 96, height: 64, num_frames: 17, num_inference_steps: 8, guidance_scale: 3.0}}
        cases:
          one: {{model: {{path: ./weights}}}}
        """,
        whole=True,
    )
    assert located.case.model.revision is None


def test_a_resolved_case_is_total(load):
    """No field is left that something else would choose: the dump states each, and the second scale is a number."""
    (located,) = load("cases:\n  one:\n")
    stated = located.case.model_dump(mode="json")
    assert stated["sampling"]["guidance_scale_2"] == 3.0
    assert set(stated) == set(Case.model_fields)
    for part, names in {
        "sampling": {"seed", "negative_prompt", "max_sequence_length", "num_inference_steps", "guidance_scale"},
        "scheduler": {"name", "flow_shift", "boundary_ratio"},
        "precision": {"transformer", "text_encoder", "vae"},
        "execution": {"attention_backend", "tf32", "deterministic", "threads", "matmul"},
        "loader": {"nibble_order", "scale_layout", "packed_qkv"},
    }.items():
        assert names <= {name for name, value in stated[part].items() if value is not None}


def test_the_same_case_round_trips_through_its_own_dump(load):
    (located,) = load("cases:\n  one:\n")
    assert Case.model_validate_json(located.case.model_dump_json()) == located.case


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("sampling: {widht: 64}", "sampling.widht: unknown key; did you mean width?"),
        ("smapling: {}", "smapling: unknown key; did you mean sampling?"),
        ('sampling: {width: "96"}', 'sampling.width: must be a whole number, not "96"'),
        ("sampling: {width: 96.5}", "sampling.width: must be a whole number, not 96.5"),
        ("sampling: {seed: true}", "sampling.seed: must be a whole number, not true"),
        ("sampling: {guidance_scale: .nan}", "sampling.guidance_scale: must be a finite number"),
        ("env: {OMP_NUM_THREADS: 1}", 'env.OMP_NUM_THREADS: must be text; write it in quotes: "1"'),
        ("execution: {tf32: on}", 'execution.tf32: must be true or false, not "on"'),
        ("quantization: {transformer: int4}", "quantization.transformer: must be 'bf16', 'fp8' or 'nvfp4'"),
        ("model: {path: ./../../etc}", "model.path: ./../../etc leads out of the repository"),
        (
            "model: {path: ./a/../../b}",
            "model.path: ./a/../../b leads out of the repository; write a",
        ),
        ("model: {path: a/../b}", "model.path: 'a/../b' is neither ./folder nor owner/name"),
        ("model: {path: a/b}", "model.path: a/b needs `revision`"),
        ("model: {path: a/b, revision: main}", 'model.revision: "main" cannot stand here; write: full commit'),
        ("model: {path: ./weights, revision: unresolved}", "model.revision: a folder has no revision"),
        ("runners: [b20]", "runners.0: no runner 'b20' in runners/; did you mean b200?"),
        ("runners: [cpu, cpu]", "runners.1: runner 'cpu' is named twice"),
        ("runners: []", "runners: must have at least 1 entry"),
        ("backend: difusers", "backend: no backend 'difusers' is installed; did you mean diffusers?"),
        ("backend: command", "backend: backend command needs `command`"),
        ("{backend: command, command: [./run, '{out}']}", "command: the program gets no request"),
        ("{backend: command, command: [./run, '{case_json}']}", "command: the program gets no place for its frames"),
        (
            "{backend: command, command: [./run, '{case_json}', '{out}', '--log={case_dri}/a']}",
            "command.3: there is no placeholder {case_dri}; did you mean {case_dir}?",
        ),
        ("program_files: ['a/*.cu']", "program_files: `program_files` belong to backend command"),
        (
            "{backend: command, command: [./run, '{case_json}', '{out}'], program_files: [../a]}",
            "program_files.0: '../a' leads out of the repository",
        ),
        ("command: [./run]", "command: `command` is read by backend command only"),
        ("backend: openai-video", "backend: backend openai-video needs `server` with either `command` or `url`"),
        (
            "{backend: openai-video, server: {url: 'http://x', command: [serve]}}",
            "backend: backend openai-video needs `server` with either `command` or `url`",
        ),
        ("server: {url: 'http://x'}", "server: `server` is read by backend openai-video only"),
        ("backend: sglang", "backend: backend sglang needs `runtime`: which version runs"),
        ("runtime: sglang==0.5.23", "runtime: `runtime` is read by backend sglang, and this is diffusers"),
        ("runtime_args: {a: 1}", "runtime_args: `runtime_args` is read by backend sglang, and this is diffusers"),
        ("env: {OMP_NUM_THREDS: '1'}", "env.OMP_NUM_THREDS: OMP_NUM_THREDS: no environment variable that backend"),
        ("env: {CUDA_VISIBLE_DEVICES: '0'}", "env.CUDA_VISIBLE_DEVICES: CUDA_VISIBLE_DEVICES belongs to the lease"),
        ("pass_env: [CUDA_DEVICE_ORDER]", "pass_env.0: CUDA_DEVICE_ORDER belongs to the lease of the GPU"),
        ("env: {HF_TOKEN: abc}", "env.HF_TOKEN: HF_TOKEN looks like a secret"),
        ("env: {BAD-NAME: x}", 'env.BAD-NAME: "BAD-NAME" cannot stand here'),
        ("contracts: ['sglang>=0.5']", "contracts.0: 'sglang>=0.5' is not of the form runtime==version"),
        ("expect: fial", 'expect: "fial" cannot stand here; write: `pass`, or the failure by which a negative control'),
        ("loader: {nibble_order: high_first}", "loader.nibble_order: has no effect"),
        ("loader: {packed_qkv: true}", "loader.packed_qkv: has no effect"),
        ("sampling: {num_frames: 16}", "sampling.num_frames: 16 is not 4k+1"),
        ("sampling: {width: 104}", "sampling.width: 104 pixels is no multiple of 16"),
        ("id: other", "id: the id of a case is its key"),
        ("inspection: report", "inspection: only a negative control may look past the inspector"),
        ("metrics: [ssim, sim]", "metrics.1: no metric is called 'sim'; did you mean ssim?"),
        ("contracts: [foo==1]", "contracts.0: no contract of the runtime 'foo' is known; known: harness, sglang"),
        (
            "expect: 'checkpoint_fault:nible_order'",
            "expect: no verdict has the cause 'nible_order'",
        ),
        (
            "expect: 'regression:sim_below_limit'",
            "expect: no verdict has the cause 'sim_below_limit': no metric is called",
        ),
        ("expect: regression", 'expect: "regression" cannot stand here; write: `pass`, or the failure by which a'),
        ("expect: inconclusive", 'expect: "inconclusive" cannot stand here; write'),
        ("expect: infra", 'expect: "infra" cannot stand here; write'),
        ("expect: 'infra:oom'", 'expect: "infra:oom" cannot stand here; write'),
        ("expect: 'regression:crash'", "expect: crash is met by any breakage"),
        ("expect: 'regression:metric_not_computed,noise'", "expect: metric_not_computed is met by any breakage"),
        ("expect: 'regression:limits_missing'", "expect: limits_missing is met by any breakage"),
        ("expect: 'regression:frame/ssim_below_limit'", "expect: no stage is called 'frame'; did you mean frames?"),
        (waiver("regression:nan"), "waiver.expect: nan says that the output is no video, and is never waived"),
        (waiver("regression:metric_not_computed"), "waiver.expect: metric_not_computed is met by any breakage"),
        (waiver("regression:a1,a2,a3,a4,a5"), "waiver.expect: 5 causes are no known failure; name at most 4"),
        (waiver("regression:psnr_below_limit", days=91), "waiver.expires: a waiver ends within 90 days, on "),
        (waiver("regression:psnr_below_limit", days=36500), "waiver.expires: a waiver ends within 90 days, on "),
        ("expect: 'regression:zzzz'", "expect: no verdict has the cause 'zzzz'; the causes are in"),
        (
            "execution: {attention_backend: foo}",
            "execution.attention_backend: diffusers has no attention backend 'foo'",
        ),
        (
            "execution: {attention_backend: nativ}",
            "execution.attention_backend: diffusers has no attention",
        ),
        ("env: {OMP_NUM_THREADS: 1.10}", 'env.OMP_NUM_THREADS: must be text; write it in quotes: "1.10"'),
        ("env: {OMP_NUM_THREADS: 0123}", 'env.OMP_NUM_THREADS: must be text; write it in quotes: "0123"'),
        ("env: {OMP_NUM_THREADS: 0x10}", 'env.OMP_NUM_THREADS: must be text; write it in quotes: "0x10"'),
        ("env: {OMP_NUM_THREADS: 1e-3}", 'env.OMP_NUM_THREADS: must be text; write it in quotes: "1e-3"'),
        ("contracts: [0.10]", 'contracts.0: must be text; write it in quotes: "0.10"'),
        ("matrix: {env.OMP_NUM_THREADS: [0010]}", 'env.OMP_NUM_THREADS: must be text; write it in quotes: "0010"'),
        (
            "model: {path: a/b, revision: 0123456789012345678901234567890123456789}",
            'model.revision: must be text; write it in quotes: "0123456789012345678901234567890123456789"',
        ),
        ("golden_of: nobody", "golden_of: no case 'nobody' in this file"),
        ("golden_of: one", "golden_of: names the case itself"),
        ("env: {'A B': x}", 'env.A B: "A B" cannot stand here; write: the name of a variable'),
        (
            '{backend: command, command: [a, "{case_json}", {out}]}',
            'command.2: must be text; write it in quotes: "{out}"',
        ),
        (
            '{backend: command, command: [a, "{case_json}", "{out}", "a\\0b"]}',
            "command.3: holds a NUL character, with which no program can be started",
        ),
        ('{backend: command, command: [a, "{case_json}", "{out}"], env: {A: "x\\0y"}}', "env.A: holds a NUL"),
        ("env: {OMP_NUM_THREADS: hf_" + "a" * 30 + "}", "env.OMP_NUM_THREADS: its value looks like a secret; take it"),
        ("env: {OMP_NUM_THREADS: 'http://me:passw0rd@host/'}", "env.OMP_NUM_THREADS: its value looks like a secret"),
        (
            "expect: 'regression:ssim_below_limt'",
            "expect: no verdict has the cause 'ssim_below_limt'; did you mean ssim_b",
        ),
        (
            "{waiver: {expect: 'regression:a', owner: o, reason: r, issue: 12-b, expires: 2026-01-01}}",
            'waiver.issue: "12-b" cannot stand here; write: address of the issue, such as https://',
        ),
        (
            "{waiver: {owner: o, reason: r, issue: 'https://x', expires: 2030-01-01}}",
            "waiver.expect: is required, and neither the case nor `defaults` states it; for example regression:flick",
        ),
        (
            "{waiver: {expect: regression, owner: o, reason: r, issue: 'https://x', expires: 2030-01-01}}",
            'waiver.expect: "regression" cannot stand here; write: `outcome:cause` of the known failure',
        ),
        (
            "{waiver: {expect: 'inconclusive:limits_x', owner: o, reason: r, issue: 'https://x', expires: 2026-01-01}}",
            "waiver.expect: limits_x is no failure of the case, and never waived",
        ),
        (
            waiver("regression:a").replace("{waiver", "{expect: 'regression:noise', waiver"),
            "waiver: a negative control",
        ),
    ],
)
def test_a_wrong_field_is_named_with_its_line(refused, fields, said):
    body = fields if fields.startswith("{") else f"\n    {fields}"
    line = LINE if fields.startswith("{") else LINE + 1
    (message,) = refused(f"cases:\n  one: {body}\n")
    assert message.startswith(f"cases/a.yaml:{line}: cases.one.{said}")


@pytest.mark.parametrize(
    "fields",
    [
        "{backend: command, command: [./run, '{case_json}', '{out_dir}', '{curly}'], program_files: [a/*.cu]}",
        "{backend: openai-video, server: {url: 'http://x'}}",
        "{backend: openai-video, server: {command: [serve, '{port}']}}",
        "{backend: sglang, runtime: sglang==0.5.23, runtime_args: {a: 1}}",
    ],
)
def test_each_backend_takes_its_own_fields(load, fields):
    assert len(load(f"cases:\n  one: {fields}\n")) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a.yaml:1: a case file is a mapping"),
        ("- a\n", "a.yaml:1: a case file is a mapping"),
        ("defaults: {}\n", "a.yaml:1: no `cases`"),
        ("cases:\n", "a.yaml:1: cases: must be a mapping from an id"),
        ("cases: [a]\n", "a.yaml:1: cases: must be a mapping from an id"),
        ("case: {}\ncases: {a: {}}\n", "a.yaml:1: case: unknown key; did you mean cases?"),
        ("defaults: 3\ncases: {a: {}}\n", "a.yaml:1: defaults: must be a mapping"),
        ("cases:\n  a: 3\n", "a.yaml:2: cases.a: must be a mapping of fields"),
        ("cases:\n  A b: {}\n", "a.yaml:2: cases.A b: bad case id 'A b'"),
        ("cases: {a: {}\n", "a.yaml:2: "),
    ],
)
def test_a_wrong_file_is_named_with_its_line(refused, text, said):
    assert any(f"cases/{said}" in message for message in refused(text, whole=True))


def test_all_faults_of_all_files_come_at_once_in_order(refused):
    said = refused(
        """\
        cases:
          one:
            sampling:
              widht: 64
              height: "64"
            env: {HF_TOKEN: abc}
            runners: [b20, h200]
          two: {bakend: diffusers}
        """,
        "cases:\n  three: {sampling: {seed: -1}}\n",
    )
    places = [message.split(": ")[0] for message in said]
    assert places == [*(f"cases/a.yaml:{LINE + offset}" for offset in (2, 3, 4, 5, 6)), f"cases/b.yaml:{LINE}"]


def test_a_fault_in_the_defaults_is_named_there(refused):
    said = refused("defaults: {sampling: {widht: 1}}\ncases:\n  one: {}\n  two: {}\n", whole=True)
    assert any(message.startswith("cases/a.yaml:1: cases.one.sampling.widht: unknown key") for message in said)


def test_what_is_missing_is_said(refused):
    message = refused("cases:\n  one: {runners: [cpu], model: {path: ./w}, sampling: {prompt: p}}\n", whole=True)
    assert (
        "cases/a.yaml:2: cases.one.sampling.width: is required, and neither the case nor `defaults` states it"
        in message
    )


def test_duplicate_ids_in_one_file_and_across_files(refused):
    (message,) = refused("cases:\n  one: {}\n  one: {}\n")
    assert message == f"cases/a.yaml:{LINE + 1}: duplicate key 'one'; it is on line {LINE} already"
    (message,) = refused("cases:\n  one: {}\n", "cases:\n  one: {}\n")
    assert message == f"cases/b.yaml:{LINE}: cases.one: duplicate case id; it is at cases/a.yaml:{LINE} already"


def test_files_that_were_loaded_apart_are_checked_together(load):
    one = load("cases:\n  one: {}\n")
    other = load("cases:\n  two: {}\n", "cases:\n  one: {}\n")
    check_unique([*one, other[0]])
    with pytest.raises(InvalidCaseError, match=r"^cases/b\.yaml:6: cases\.one: duplicate case id; it is at cases/a"):
        check_unique([*one, *other])


@pytest.mark.parametrize("path", ["/models/wan", "~/models/wan", "./link/wan", "./..models", "./a/../b"])
def test_a_checkpoint_may_lie_anywhere_on_the_disk(load, tmp_path, path):
    (tmp_path / "link").symlink_to(tmp_path.parent)
    (one,) = load(f"cases:\n  one: {{model: {{path: {path}}}}}\n")
    assert one.case.model.is_local
    assert one.case.model.path == path  # the record says what the case says


def test_files_that_cannot_be_read(tmp_path):
    absent, binary = tmp_path / "absent.yaml", tmp_path / "binary.yaml"
    binary.write_bytes(b"cases:\n  \xff: {}\n")
    with pytest.raises(
        InvalidCaseError, match=r"(?s)absent.yaml:1: cannot be read.*binary.yaml:2: not UTF-8: byte 0xff"
    ):
        load_cases([absent, binary], tmp_path, runners=["cpu"])


def test_right_cases_survive_beside_wrong_ones(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("cases:\n  bad: {}\n  good: {runners: [cpu], model: {path: ./w}, sampling: {prompt: p, width: 16,"
                    " height: 16, num_frames: 1, num_inference_steps: 1, guidance_scale: 1}}\n")  # fmt: skip
    cases, problems = check_cases([path], tmp_path, runners=["cpu"])
    assert [one.case.id for one in cases] == ["good"]
    assert all("cases.bad" in problem.message for problem in problems)
    with pytest.raises(InvalidCaseError) as caught:
        load_cases([path], tmp_path, runners=["cpu"])
    assert caught.value.exit_code == 17


def test_runner_profiles_of_the_repository_are_the_default(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("cases:\n  one: {runners: [cpu]}\n")
    with pytest.raises(
        InvalidCaseError, match="no runner 'cpu' in runners/; it holds no profile; `quantgate init` writes some"
    ):
        load_cases([path], tmp_path)


def test_paths_in_messages_are_relative_to_the_repository(load, tmp_path):
    (located,) = load("cases:\n  one: {}\n")
    assert located.path == Path("cases/a.yaml")


def test_nothing_is_guessed_of_fields_that_a_wrong_one_decides(refused):
    """With the backend unreadable, no variable can be called unknown to it."""
    message = refused("cases:\n  one: {backend: 3, env: {SGLANG_X: 'a'}, runners: [nowhere]}\n")
    assert message == [f'cases/a.yaml:{LINE}: cases.one.backend: must be text; write it in quotes: "3"']


def test_a_wrong_field_does_not_hide_the_next_mistake(refused):
    said = refused("cases:\n  one:\n    model: {revision: main}\n    sampling: 3\n    base: {path: a/b}\n")
    meant = "full commit of a hub repository; a run refuses `unresolved` until `quantgate resolve` has replaced it"
    assert [message.split(": ", 1)[1] for message in said] == [
        f'cases.one.model.revision: "main" cannot stand here; write: {meant}',
        "cases.one.sampling: must be a mapping of fields, not 3",
        "cases.one.base.path: a/b needs `revision`: a full commit, or `unresolved` until one is known",
    ]


CONTROL = """\
cases:
  right: {{runners: [cpu, h200]}}
  wrong: {{golden_of: right, expect: "regression:noise"{more}}}
"""


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (", sampling: {seed: 1}", "sampling: differs from that of right, whose golden it is compared with"),
        (", scheduler: {flow_shift: 5}", "scheduler: differs from that of right"),
        (", runners: [cpu, b200]", "runners: right has no golden on b200"),
    ],
)
def test_a_control_asks_for_the_video_it_is_compared_with(refused, load, more, said):
    assert load(CONTROL.format(more=""))[1].case.golden_of == "right"
    (message,) = refused(CONTROL.format(more=more))
    assert message.startswith(f"cases/a.yaml:{LINE + 1}: cases.wrong.{said}")


def test_a_path_without_its_dot_names_the_file_that_is_meant(
    refused: Callable[..., list[str]], load: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "models" / "wan").mkdir(parents=True)
    (tmp_path / "models" / "a.png").touch()
    fields = "{model: {path: models/wan}, sampling: {image: {path: models/a.png}}}"
    assert [line.partition("cases.one.")[2] for line in refused(f"cases:\n  one: {fields}\n")] == [
        "model.path: models/wan names a repository on the hub; for the folder that is here write ./models/wan",
        (
            "sampling.image.path: models/a.png names a repository on the hub; for the file that is here write "
            "./models/a.png"
        ),
    ]
    # a name on the hub with its commit is one, whatever lies here
    load("cases:\n  one: {model: {path: models/wan, revision: unresolved}}\n")


def test_a_golden_is_not_borrowed_twice(refused):
    message = refused("cases:\n  a: {}\n  b: {golden_of: a}\n  c: {golden_of: b}\n")
    assert message == [f"cases/a.yaml:{LINE + 2}: cases.c.golden_of: b has no golden of its own; name a"]


def test_what_is_written_in_the_defaults_is_quoted_as_it_stands_there(refused):
    said = refused("defaults: {env: {OMP_NUM_THREADS: 0x2}}\ncases:\n  one: {}\n", whole=True)
    assert any('write it in quotes: "0x2"' in message for message in said)


def test_a_golden_of_nobody_is_told_beside_other_mistakes(refused):
    said = refused(
        "cases:\n  one: {golden_of: tow, metrics: [sim]}\n  two: {runners: [b20]}\n  three: {golden_of: nobody}\n"
    )
    assert [message.split(": ")[1] for message in said] == [
        "cases.one.golden_of",
        "cases.one.metrics.0",
        "cases.two.runners.0",
        "cases.three.golden_of",
    ]
    assert "did you mean two?" in said[0]


def test_names_of_installed_things_need_no_torch():
    import subprocess
    import sys

    code = (
        "import sys; from harness.definitions import checks; checks.metric_names(); checks.attention_backends();"
        "print([name for name in ('torch', 'diffusers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "expect", ["regression:frames/ssim_below_limit", "regression:noise,trace/timestep", "checkpoint_fault:nibble_order"]
)
def test_a_control_names_what_it_must_be_seen_by(load, expect):
    (one,) = load(f"cases:\n  one: {{expect: '{expect}'}}\n")
    assert one.case.expect == expect


def test_a_waiver_of_ninety_days_is_taken(load):
    (one,) = load(f"cases:\n  one: {waiver('regression:psnr_below_limit', days=90)}\n")
    assert one.case.waiver is not None


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("owner", " "),
        ("owner", "\n"),
        ("reason", " "),
        ("reason", "\u200b"),
        ("reason", "..."),
        ("issue", "https://"),
        ("issue", "http:///1"),
    ],
)
def test_a_waiver_without_a_visible_owner_reason_or_issue_is_refused(field: str, text: str) -> None:
    waived = {
        "expect": "regression:psnr_below_limit", "owner": "ann", "reason": "r", "issue": "https://example.org/1",
        "expires": "2026-01-02",
    }  # fmt: skip
    assert Waiver.model_validate(waived).owner == "ann"
    with pytest.raises(ValidationError, match=field):
        Waiver.model_validate(waived | {field: text})


def test_the_folder_of_the_case_file_is_told_relative_to_the_root(load: Callable[..., Any]) -> None:
    (one,) = load(
        "cases:\n  a: {backend: command, command: ['{case_dir}/run', '{root}', '{json}', '{case_json}', '{out_dir}']}\n"
    )
    assert one.case.command == ("cases/run", "{root}", "{json}", "{case_json}", "{out_dir}")


@pytest.mark.parametrize(
    "text",
    ["cases:\n\tone: {}\n", "- a\n", "cases: {one: 3}\n", "cases:\n  one: {runners: [cpu]}\n", "a: *x\n", ""],
)
def test_every_mistake_names_file_line_and_the_next_command(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InvalidCaseError, match=r"^c\.yaml:\d+: ") as caught:
        load_cases([path], tmp_path, runners=["cpu"])
    assert "quantgate cases" in caught.value.remedy
