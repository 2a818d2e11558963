"""Sites: every common spelling is read, everything else is answered with the nearest."""

from __future__ import annotations

import pytest

from armillary.core.site import KINDS, Site, Source
from armillary.errors import InputError, UnknownNameError

SPELLINGS = {
    "mlp_act.6": Site("mlp_act", 6),
    " resid_post.12 ": Site("resid_post", 12),
    "resid_post.-1": Site("resid_post", -1),
    "L6.mlp_post": Site("mlp_act", 6),
    "z.12": Site("attn_z", 12),
    "mlp_out_post.12": Site("mlp_out", 12),
    "attn_z.3.h2": Site("attn_z", 3, 2),
    "embed": Site("embed"),
    "hook_embed": Site("embed"),
    "blocks.12.hook_resid_pre": Site("resid_pre", 12),
    "blocks.12.hook_in": Site("resid_pre", 12),
    "blocks.12.hook_resid_mid": Site("resid_mid", 12),
    "blocks.12.hook_resid_post": Site("resid_post", 12),
    "blocks.12.hook_out": Site("resid_post", 12),
    "blocks.12.hook_mlp_out": Site("mlp_out", 12),
    "blocks.12.mlp.hook_out": Site("mlp_out", 12),
    "blocks.12.mlp.hook_post": Site("mlp_act", 12),
    "blocks.12.attn.hook_z": Site("attn_z", 12),
    "blocks.12.hook_attn_out": Site("attn_out", 12),
    "blocks.12.ln2.hook_normalized": Site("mlp_in", 12),
    "model.layers.12.mlp": Site("path", path="model.layers.12.mlp"),
    "model.layers.12.self_attn.o_proj.input": Site("path", path="model.layers.12.self_attn.o_proj", part="input"),
    "layers.12": Site("path", path="layers.12"),
    "transformer.h.3.mlp.c_proj.input": Site("path", path="transformer.h.3.mlp.c_proj", part="input"),
    "path:lm_head": Site("path", path="lm_head"),
    "path:0.output": Site("path", path="0"),
}


@pytest.mark.parametrize(("text", "site"), SPELLINGS.items())
def test_a_spelling_is_read(text: str, site: Site) -> None:
    assert Site.parse(text) == site


@pytest.mark.parametrize("site", set(SPELLINGS.values()), ids=str)
def test_the_canonical_form_is_read_back(site: Site) -> None:
    assert Site.parse(str(site)) == site
    assert Site.parse(site) is site


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("mlp_atc.6", "mlp_act.6"),
        ("blocks.6.hook_resid_pots", "blocks.6.hook_resid_post"),
        ("residpost.3", "resid_post.3"),
        ("nonsense", "mlp_act.<kind>|<kind>.<layer>"),
    ],
)
def test_an_unknown_spelling_has_the_nearest(text: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError, match=nearest) as caught:
        Site.parse(text)
    assert "\n" not in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Site("mlp_akt", 1), "mlp_act"),
        (lambda: Site("mlp_act"), "needs a layer"),
        (lambda: Site("embed", 0), "takes no layer"),
        (lambda: Site("mlp_act", 1, head=0), "only 'attn_z' has heads"),
        (lambda: Site("path"), "module path"),
        (lambda: Site("path", path="a", part="outptu"), "output"),
    ],
)
def test_a_wrong_site_says_what_is_allowed(make: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()  # type: ignore[operator]


def test_layers_count_from_the_end_too() -> None:
    assert Site("mlp_act", -1).resolved(6) == Site("mlp_act", 5)
    assert Site("embed").resolved(6) == Site("embed")
    with pytest.raises(InputError, match="6 layers"):
        Site("mlp_act", 6).resolved(6)


def test_sites_sort_by_spelling() -> None:
    assert sorted([Site("mlp_out", 1), Site("embed"), Site("mlp_act", 1)])[0] == Site("embed")
    assert len({Site(kind, 0) for kind in KINDS if kind != "embed"}) == len(KINDS) - 1


def test_a_source_survives_json() -> None:
    source = Source("gpt2", "0123456789", Site("attn_z", 3, 2))
    assert Source.from_json(source.to_json()) == source
    assert str(source) == "gpt2@01234567:attn_z.3.h2"
