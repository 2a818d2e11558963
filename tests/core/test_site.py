"""A site has one name and many spellings."""

from __future__ import annotations

import pytest

from armillary.core.site import KINDS, Site, Source
from armillary.errors import InputError, UnknownNameError

#: Layer 12 in every dialect.
SPELLINGS = {
    # TransformerLens, legacy
    "blocks.12.hook_resid_pre": "resid_pre.12",
    "blocks.12.hook_resid_mid": "resid_mid.12",
    "blocks.12.hook_resid_post": "resid_post.12",
    "blocks.12.hook_attn_out": "attn_out.12",
    "blocks.12.hook_mlp_out": "mlp_out.12",
    "blocks.12.mlp.hook_post": "mlp_act.12",
    "blocks.12.attn.hook_z": "attn_z.12",
    "blocks.12.attn.hook_z.h3": "attn_z.12.h3",
    "blocks.12.ln1.hook_normalized": "attn_in.12",
    "blocks.12.ln2.hook_normalized": "mlp_in.12",
    "hook_embed": "embed",
    # TransformerLens bridge
    "blocks.12.hook_in": "resid_pre.12",
    "blocks.12.hook_out": "resid_post.12",
    "blocks.12.ln2.hook_in": "resid_mid.12",
    "blocks.12.attn.hook_in": "attn_in.12",
    "blocks.12.attn.o.hook_in": "attn_z.12",
    "blocks.12.attn.hook_out": "attn_out.12",
    "blocks.12.mlp.hook_in": "mlp_in.12",
    "blocks.12.mlp.out.hook_in": "mlp_act.12",
    "blocks.12.mlp.hook_out": "mlp_out.12",
    "blocks.12.ln2_post.hook_out": "mlp_out.12",
    "embed.hook_out": "embed",
    # interp-engine
    "resid_post.12": "resid_post.12",
    "mlp_out_post.12": "mlp_out.12",
    "z.12": "attn_z.12",
    # short forms
    "L12.mlp_post": "mlp_act.12",
    "l12.resid": "resid_post.12",
    "L12.attn_z.h3": "attn_z.12.h3",
    "attn_z.12.3": "attn_z.12.h3",
    "resid_post.-1": "resid_post.-1",
    "mlp_out_layer_12": "mlp_out.12",
    " mlp_act.12 ": "mlp_act.12",
    # module paths: Hugging Face, Gemma Scope 2, sparsify (relative to the base model), or said to be one
    "model.layers.12": "path:model.layers.12.output",
    "model.layers.12.output": "path:model.layers.12.output",
    "model.layers.12.output.0": "path:model.layers.12.output",
    "model.layers.12.input": "path:model.layers.12.input",
    "model.layers.12.self_attn.o_proj.input": "path:model.layers.12.self_attn.o_proj.input",
    "language_model.layers.12.mlp": "path:language_model.layers.12.mlp.output",
    "layers.12": "path:layers.12.output",
    "layers.12.mlp": "path:layers.12.mlp.output",
    "h.12": "path:h.12.output",
    "blocks.12": "path:blocks.12.output",
    "lm_head.input": "path:lm_head.input",
    "path:lm_head": "path:lm_head.output",
}


@pytest.mark.parametrize(("spelling", "canonical"), SPELLINGS.items())
def test_every_dialect_is_read(spelling: str, canonical: str) -> None:
    assert str(Site.parse(spelling)) == canonical


def test_the_canonical_spelling_reads_back() -> None:
    sites = [Site("embed"), Site("attn_z", 3, head=2), Site.module("a.b.input"), *(Site(kind, 4) for kind in KINDS[1:])]
    assert [Site.parse(str(site)) for site in sites] == sites
    assert Site.parse(sites[0]) is sites[0]


@pytest.mark.parametrize(
    ("spelling", "nearest"),
    [
        ("mlp_akt.6", "mlp_act.6"),
        ("blocks.6.mlp.hok_post", "blocks.6.mlp.hook_post"),
        ("blocks.6.hook_mlp_in", "blocks.6.hook_mlp_out"),  # before or after the norm, depending on who says it
        ("residpost.3", "resid_post.3"),
        ("nonsense", "embed"),
        ("", "embed"),
    ],
)
def test_an_unknown_spelling_has_the_nearest_ones(spelling: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        Site.parse(spelling)
    assert nearest in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Site("mlp_act"),
        lambda: Site("embed", 1),
        lambda: Site("mlp_act", 1, head=2),
        lambda: Site("path"),
        lambda: Site("path", 1, path="a"),
        lambda: Site("path", path="a", part="middle"),
        lambda: Site("mlp", 1),
    ],
)
def test_what_no_site_can_be_is_refused(make: object) -> None:
    with pytest.raises(InputError):
        make()  # type: ignore[operator]


def test_layers_count_from_either_end() -> None:
    assert Site("attn_z", -1, head=2).resolved(6) == Site("attn_z", 5, head=2)
    assert Site("embed").resolved(6) == Site("embed")
    for layer in (6, -7):
        with pytest.raises(InputError, match=r"6 layers \(0 to 5\)"):
            Site("mlp_act", layer).resolved(6)


def test_sites_are_keys_and_have_an_order() -> None:
    assert {Site("mlp_act", 1): "a"}[Site.parse("blocks.1.mlp.hook_post")] == "a"
    assert sorted([Site("resid_post", 1), Site("attn_z", 1)]) == [Site("attn_z", 1), Site("resid_post", 1)]


def test_a_source_reads_back() -> None:
    source = Source("gpt2", "0123456789abcdef", Site("attn_z", 3, head=2))
    assert Source.from_json(source.to_json()) == source
    assert str(source) == "gpt2@01234567:attn_z.3.h2"
    assert str(Source("gpt2", "", Site("embed"))) == "gpt2:embed"
