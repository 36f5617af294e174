"""``matrix``: which cases come out, what they are called, and what is said of a wrong one."""

from __future__ import annotations

import pytest

from harness.definitions.loading import merge, put

LINE = 6


def test_every_combination_in_the_order_written(load):
    cases = load(
        """\
        cases:
          one:
            matrix:
              sampling.seed: [0, 1]
              execution.tf32: [false, true]
        """
    )
    assert [one.case.id for one in cases] == [
        "one-seed_0-tf32_false",
        "one-seed_0-tf32_true",
        "one-seed_1-tf32_false",
        "one-seed_1-tf32_true",
    ]
    assert [(one.case.sampling.seed, one.case.execution.tf32) for one in cases] == [
        (0, False),
        (0, True),
        (1, False),
        (1, True),
    ]
    assert {one.line for one in cases} == {LINE}


def test_labels_name_values_that_have_no_name(load):
    cases = load(
        """\
        cases:
          one:
            matrix:
              model: {plain: {path: ./a}, tuned: {path: ./b}}
              env.OMP_NUM_THREADS: ["1", "2"]
        """
    )
    assert [one.case.id for one in cases][:2] == ["one-plain-omp_num_threads_1", "one-plain-omp_num_threads_2"]
    assert [one.case.model.path for one in cases] == ["./a", "./a", "./b", "./b"]


def test_the_version_of_a_runtime_is_an_axis(load):
    cases = load(
        """\
        cases:
          one:
            backend: sglang
            matrix:
              runtime: [sglang==0.5.13, sglang==0.5.23]
        """
    )
    assert [one.case.runtime for one in cases] == ["sglang==0.5.13", "sglang==0.5.23"]
    assert len({one.case.id for one in cases}) == 2


def test_ids_stay_readable(load):
    cases = load(
        'cases:\n  one: {matrix: {sampling.prompt: ["A red circle!", "ÄÖ"], sampling.guidance_scale: [1.5]}}\n'
    )
    assert [one.case.id for one in cases] == [
        "one-prompt_a_red_circle-guidance_scale_1.5",
        "one-prompt_empty-guidance_scale_1.5",
    ]


def test_a_wrong_value_is_named_at_its_own_line(refused):
    (message,) = refused("cases:\n  one:\n    matrix:\n      sampling.seed:\n        - 0\n        - -1\n")
    assert message.startswith(f"cases/a.yaml:{LINE + 4}: cases.one.sampling.seed: must be at least 0")


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        ("{}", "matrix: write dotted fields and their values"),
        ("[1]", "matrix: write dotted fields and their values"),
        ("{sampling.seed: 3}", "matrix.sampling.seed: write a list of values"),
        ("{sampling.seed: []}", "matrix.sampling.seed: write a list of values"),
        ("{sampling..seed: [1]}", "matrix.sampling..seed: not a dotted field"),
        ("{id: [a]}", "matrix.id: not a dotted field"),
        ("{model: [{path: ./a}]}", "matrix.model: values that are lists or mappings need a label"),
        ("{sampling.prompt: [a b, a_b]}", "matrix.sampling.prompt: two values are called 'prompt_a_b'"),
        ("{sampling.sed: [1]}", "sampling.sed: unknown key; did you mean seed?"),
    ],
)
def test_a_wrong_matrix_is_named(refused, matrix, said):
    (message,) = refused(f"cases:\n  one: {{matrix: {matrix}}}\n")
    assert message.startswith(f"cases/a.yaml:{LINE}: cases.one.{said}")


def test_a_matrix_cannot_explode(refused):
    axes = ", ".join(f"env.TORCH_{name}: {[str(n) for n in range(20)]}" for name in "ABCDEF")
    (message,) = refused(f"cases:\n  one: {{matrix: {{{axes}}}}}\n")
    assert "64000000 cases; at most 1000" in message


def test_merge_and_put_leave_their_arguments_alone():
    under = {"a": {"x": 1, "y": 2}, "b": [1]}
    over = {"a": {"y": 3}, "b": [2]}
    assert merge(under, over) == {"a": {"x": 1, "y": 3}, "b": [2]}
    assert put(under, ["a", "z", "q"], 0) == {"a": {"x": 1, "y": 2, "z": {"q": 0}}, "b": [1]}
    assert (under, over) == ({"a": {"x": 1, "y": 2}, "b": [1]}, {"a": {"y": 3}, "b": [2]})
