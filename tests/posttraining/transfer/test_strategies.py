"""Each strategy's arithmetic, worked out by hand."""

import pytest
import torch

from switchq.posttraining.transfer.carried import carry, carry_on
from switchq.posttraining.transfer.strategies import CONTROLS, STRATEGIES, Matched

from .conftest import channels, entry_of, model_of, site

DRAW = torch.Generator


def test_adaptive_512_to_768_interpolates_between_the_middles_of_channels() -> None:
    importance_I = torch.arange(512.0)
    found_I = STRATEGIES["adaptive"].importance(site(importance_I), channels(0, 768), DRAW())
    # channel j lies at (j + 1/2) 2/3 - 1/2: -1/6 (held at 0), 1/2, 7/6, 11/6, 5/2, ..., 511 + 1/6 (held at 511)
    torch.testing.assert_close(found_I[:5], torch.tensor([0.0, 1 / 2, 7 / 6, 11 / 6, 5 / 2]))
    torch.testing.assert_close(found_I[-2:], torch.tensor([510.5, 511.0]))
    assert len(found_I) == 768


def test_adaptive_768_to_512_takes_two_of_three() -> None:
    found_I = STRATEGIES["adaptive"].importance(site(torch.arange(768.0)), channels(0, 512), DRAW())
    # channel j takes floor((j + 1/2) 3/2): 0.75, 2.25, 3.75, 5.25, ...
    assert found_I[:6].tolist() == [0, 2, 3, 5, 6, 8]
    assert found_I[-1] == 767
    assert len(found_I.unique()) == 512


@pytest.mark.parametrize(
    ("given", "protected", "wanted", "count"),
    [(512, 5, 768, 8), (768, 8, 512, 5), (512, 5, 512, 5), (512, 1, 256, 1)],
    ids=["512 -> 768: 7.5", "768 -> 512: 5.33", "equal", "0.5, but one at least"],
)
@pytest.mark.parametrize("name", ["adaptive", "ratio", "matched"])
def test_the_protect_ratio_stays(name: str, given: int, protected: int, wanted: int, count: int) -> None:
    source = entry_of(1, given)
    for one in source.sites:
        object.__setattr__(one, "protected_K", one.importance_I.topk(protected).indices)
    for one in carry(source, model_of(1, wanted), STRATEGIES[name]).sites:
        assert len(one.protected_K) == count
        assert one.factor == 2.0


def test_adaptive_protects_the_stretched_peak() -> None:
    importance_I = torch.zeros(512)
    importance_I[100:102] = torch.tensor([4.0, 8.0])
    found_I = STRATEGIES["adaptive"].importance(site(importance_I), channels(0, 768), DRAW())
    # channel 151 lies at 100.5, 152 at 101.17, 150 at 99.83
    expected_I = torch.tensor([4 * 5 / 6, 6.0, 8 * 5 / 6])
    torch.testing.assert_close(found_I[150:153], expected_I, rtol=0, atol=1e-4)  # positions near 100 are float32 too
    assert sorted(found_I.topk(2).indices.tolist()) == [151, 152]


def test_direct_needs_equal_dimensions() -> None:
    direct = STRATEGIES["direct"]
    importance_I = torch.rand(512)
    assert torch.equal(direct.importance(site(importance_I), channels(0, 512), DRAW()), importance_I)
    assert carry(entry_of(2, 512), model_of(3, 768), direct).sites == ()
    assert len(carry(entry_of(2, 512), model_of(3, 512), direct).sites) == 12


@pytest.mark.parametrize("wanted", [512, 768])
@pytest.mark.parametrize(("name", "form"), [("alpha", "scale"), ("ratio", "protect")])
def test_alpha_and_ratio_take_importance_from_the_target_alone(name: str, form: str, wanted: int) -> None:
    made_I = torch.rand(wanted)
    strategy = STRATEGIES[name]
    one, other = (site(torch.rand(640), protected=64, alpha=0.35) for _ in range(2))
    target = channels(0, wanted, made=made_I)
    assert torch.equal(strategy.importance(one, target, DRAW()), made_I)
    assert torch.equal(strategy.importance(other, target, DRAW()), made_I)
    assert strategy.forms == (form,)


def test_alpha_is_carried_with_the_targets_own_salience() -> None:
    source, target = entry_of(1, 4), model_of(1, 3)
    target.sites[0].made_I[:] = torch.tensor([1.0, 4.0, 16.0])
    (first, *_) = carry(source, target, STRATEGIES["alpha"]).sites
    assert first.alpha == 0.5
    assert first.scale_I.tolist() == [0.5, 1.0, 2.0]  # square roots, centred on 1


def test_matched_ignores_position() -> None:
    importance_I, made_I = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([10.0, 20.0, 30.0, 40.0])
    mixed = torch.tensor([2, 0, 3, 1])
    source = site(importance_I[mixed], made=made_I[mixed])
    target = channels(0, 4, made=torch.tensor([0.3, 0.1, 0.4, 0.2]))
    assert Matched(reach=0).importance(source, target, DRAW()).tolist() == [3, 1, 4, 2]
    # with a neighbour on either side, as far as there is one: 1.5, 2, 3, 3.5 in order
    assert Matched(reach=1).importance(source, target, DRAW()).tolist() == [3, 1.5, 3.5, 2]


def test_matched_512_to_768_is_adaptive_in_the_order_of_the_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    shuffle_S, shuffle_T = torch.randperm(512, generator=generator), torch.randperm(768, generator=generator)
    straight = site(torch.arange(512.0))
    source = site(torch.arange(512.0)[shuffle_S], made=torch.arange(512.0)[shuffle_S])
    found_I = Matched(reach=0).importance(source, channels(0, 768, made=torch.arange(768.0)[shuffle_T]), DRAW())
    expected_I = STRATEGIES["adaptive"].importance(straight, channels(0, 768), DRAW())
    torch.testing.assert_close(found_I, expected_I[shuffle_T])


def test_matched_orders_equally_made_channels_by_how_they_are_read() -> None:
    source = site(torch.tensor([5.0, 7.0]), read=torch.tensor([2.0, 1.0]))
    found_I = Matched(reach=0).importance(source, channels(0, 2, read=torch.tensor([0.1, 0.2])), DRAW())
    assert found_I.tolist() == [7, 5]


def test_permuted_has_the_values_of_adaptive_in_other_places() -> None:
    source, target = site(torch.rand(512)), channels(0, 768)
    plain_I = STRATEGIES["adaptive"].importance(source, target, DRAW())
    one_I, again_I, other_I = (
        CONTROLS["permuted"].importance(source, target, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one_I.sort().values, plain_I.sort().values)
    assert torch.equal(one_I, again_I)
    assert (one_I != plain_I).float().mean() > 0.9
    assert (one_I != other_I).float().mean() > 0.9


def test_random_channels_are_others_for_each_seed_and_input() -> None:
    source, target = entry_of(1, 512), model_of(2, 768)
    one, again, other = (carry(source, target, CONTROLS["random"], seed) for seed in (0, 0, 1))
    picks = [frozenset(site.protected_K.tolist()) for site in (*one.sites, *other.sites)]
    assert len(set(picks)) == len(picks)
    assert all(torch.equal(a.importance_I, b.importance_I) for a, b in zip(one.sites, again.sites))


def test_a_chain_is_one_transfer_after_the_other() -> None:
    source, middle, last = entry_of(2, 512), model_of(3, 640), model_of(4, 768)
    adaptive = STRATEGIES["adaptive"]
    found = carry_on(source, [middle, last], adaptive)
    step = carry(carry(source, middle, adaptive), last, adaptive)
    assert found.sha256 == step.sha256 != carry(source, last, adaptive).sha256
    assert found.blocks == 4
    assert {site.alpha for site in found.sites} == {0.5}
