"""Healthy changes: written in another way, kept in another place, computed in another order."""

from __future__ import annotations

from benchmarks.unseen.design import FORMS, Entry, numbered

_FILES = (
    "resharded", "one_shard", "reordered", "reordered_vae", "reordered_text_encoder", "header_padded", "metadata_added",
    "json_compact", "json_sorted", "json_reversed", "json_version_gone", "json_name_or_path", "json_other_version",
    "json_crlf", "tokenizer_reformatted", "readme_added", "licence_added", "assets_added", "readme_in_component",
    "gitattributes_added", "cache_folder_added", "links", "touched", "readonly", "copied", "everything_rewritten",
    "sharded_and_documented", "model_index_version", "scheduler_reformatted",
)  # fmt: skip
"""Edits of the export that change no value that anything reads."""
_VALUES = ("json_producer", "config_defaults_left_out", "ties")
"""Edits that change a value, though not for the worse."""
_RUNNING = (
    "own_loop", "batched_guidance", "negative_first", "less_than_a_level", "guidance_other_form", "guidance_in_float32",
    "attention_written_out", "qkv_in_one_product", "ffn_in_two_chunks", "vae_channels_last", "vae_double",
    "vae_ramp_blend_off", "other_seed_elsewhere", "two_threads", "slower_steps", "garbage_collected", "nothing",
)  # fmt: skip
"""Other ways of computing the same."""
_BOTH = frozenset({
    "resharded", "reordered", "json_sorted", "batched_guidance", "negative_first", "less_than_a_level",
    "qkv_in_one_product", "vae_channels_last", "nothing", "guidance_other_form",
})  # fmt: skip
"""Tried in both formats."""


def healthy() -> list[Entry]:
    """The whole list."""
    entries: list[Entry] = []
    for number, name in enumerate(_RUNNING):
        for form in FORMS:
            if name in _BOTH or FORMS[number % 2] == form:
                entries += [Entry(f"healthy_{name}_{form}", "healthy: computed otherwise", form, running=name)]
    for number, form in enumerate(FORMS):
        entries += [
            Entry(f"healthy_nudge_1_{form}", "healthy: less than a level", form, frames="nudge_1_percent"),
            Entry(f"healthy_nudge_10_{form}", "healthy: less than a level", form, frames="nudge_10_percent"),
            Entry(f"healthy_same_frames_{form}", "healthy: less than a level", form, frames="same"),
            Entry(f"healthy_again_{form}", "healthy: fresh process", form, running="nothing", fresh=True),
            Entry(
                f"healthy_sdpa_{form}",
                "healthy: computed otherwise",
                form,
                case={"execution": {"attention_backend": ("_native_math", "native")[number]}},
                value_changes=True,
            ),
            Entry(
                f"healthy_described_{form}",
                "healthy: case file",
                form,
                case={"description": "the same case in other words"},
            ),
            Entry(
                f"healthy_timeouts_{form}",
                "healthy: case file",
                form,
                case={"timeouts": {"load": 250, "generate": 250}},
            ),
        ]
    entries += [
        Entry(
            "healthy_unread_variable",
            "healthy: environment",
            "nvfp4",
            case={"env": {"NCCL_DEBUG": "WARN"}},
            value_changes=True,
        ),
        Entry(
            "healthy_verbosity",
            "healthy: environment",
            "fp8",
            case={"env": {"DIFFUSERS_VERBOSITY": "error"}},
            value_changes=True,
        ),
        Entry("healthy_made_by", "healthy: case file", "nvfp4", case={"model": {"made_by": "by hand"}}),
        Entry(
            "healthy_moved", "healthy: moved folder", "nvfp4", files="copied", case={"model": {"path": "./tiny/moved"}}
        ),
        Entry(
            "healthy_moved_fp8",
            "healthy: moved folder",
            "fp8",
            files="copied",
            case={"model": {"path": "./tiny/moved"}},
        ),
    ]
    for number, name in enumerate((*_FILES, *_VALUES)):
        for form in FORMS:
            if name in _BOTH or FORMS[number % 2] == form:
                entries += [
                    Entry(
                        f"healthy_{name}_{form}",
                        "healthy: written otherwise",
                        form,
                        files=name,
                        value_changes=name in _VALUES,
                    )
                ]
    return numbered(entries)
