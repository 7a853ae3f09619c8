"""The small world: exact counterfactuals, separate splits, words, and the classifier that judges edits."""

import numpy as np
import pytest
import torch

from toy import captions, scenes
from toy.classify import look
from toy.shapes import COLORS, SHAPES, Thing, coverage

SOME = range(12)


def told(index, split="validation"):
    return scenes.scene(split, index)


@pytest.mark.parametrize("index", SOME)
def test_a_counterfactual_differs_only_inside_the_edit_mask(index):
    scene = told(index)
    for other in (scene.recolored("red"), scene.reshaped("cross"), scene.emptied()):
        outside = scenes.edit_mask(scene, other) == 0
        assert np.array_equal(scenes.render(scene)[outside], scenes.render(other)[outside])


def test_the_mask_comparison_notices_one_pixel_too_few():
    scene = told(0)
    mask = scenes.object_mask(scene)
    frame, y, x = np.argwhere(mask)[len(np.argwhere(mask)) // 2]
    mask[frame, y, x] = 0
    assert not np.array_equal(scenes.render(scene)[mask == 0], scenes.render(scene.emptied())[mask == 0])


@pytest.mark.parametrize("index", SOME)
def test_clips_are_what_they_say(index):
    clip = scenes.render(told(index))
    assert clip.shape == (17, 128, 128, 3) and clip.dtype == np.float32
    assert 0 <= clip.min() and clip.max() <= 1


def test_a_part_of_a_clip_is_that_part():
    scene = told(3)
    assert np.array_equal(scenes.render(scene, range(5, 9)), scenes.render(scene)[5:9])


def test_a_seed_is_a_scene_for_ever():
    assert told(7) == told(7) != told(8)


def test_splits_never_share_a_seed():
    ends = [(scenes.split_seed(name, 0), scenes.split_seed(name, scenes.SPLIT_SIZE - 1)) for name in scenes.SPLITS]
    assert all(a[1] < b[0] for a, b in zip(sorted(ends), sorted(ends)[1:]))
    with pytest.raises(ValueError, match="outside"):
        scenes.split_seed("train", scenes.SPLIT_SIZE)
    with pytest.raises(ValueError, match="dev"):
        scenes.split_seed("dev", 0)


def test_the_world_is_as_rich_as_promised():
    many = [told(index, "train") for index in range(400)]
    assert {scene.shape for scene in many} == set(SHAPES) and {scene.color for scene in many} == set(COLORS)
    assert len({scene.background.texture for scene in many}) == 5
    assert 0.1 < np.mean([scene.ball is not None for scene in many]) < 0.3
    assert 0.25 < np.mean([any(scene.background.pan) for scene in many]) < 0.55
    masks = np.stack([scenes.object_mask(scene)[[0, -1]] for scene in many[:100]])
    leaves = masks[..., [0, -1], :].any((1, 2, 3)) | masks[..., [0, -1]].any((1, 2, 3))
    assert 0.05 < leaves.mean() < 0.7


def test_a_panning_background_moves_as_one_piece():
    scene = next(told(i) for i in range(99) if told(i).background.pan == (2, 0))
    bare = scenes.render(scenes.replace(scene.emptied(), ball=None))
    assert np.array_equal(bare[0][:, 2:], bare[1][:, :-2])


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_have_the_area_of_their_outline(shape):
    area = coverage(Thing(shape, (0, 0, 0), 20.0, ((50.3, 48.7),)), 100).sum()
    expected = {"circle": 1256.6, "square": 1183.4, "cross": 1047.0, "triangle": 878.2}[shape]
    assert area == pytest.approx(expected, rel=0.02)


# words ------------------------------------------------------------------------------------------------------------


def test_captions_use_known_words_and_tell_what_changed():
    for index in range(60):
        scene = told(index, "train")
        text = captions.caption(scene)
        assert scene.color in text and scene.shape in text and captions.encode(text).shape == (1, 12, 4096)
        other = captions.caption(scene.recolored("red" if scene.color != "red" else "blue"))
        assert sum(a != b for a, b in zip(text.split(), other.split())) == 1


def test_an_empty_prompt_is_zero_and_words_are_far_apart():
    assert not captions.encode("").any()
    table = captions.embeddings()[1:]
    likeness = (table @ table.T / 4096).fill_diagonal_(0)
    assert likeness.abs().max() < 0.1


def test_word_vectors_never_change():
    assert captions.word_vector("red")[:8].tolist() == [-1, 1, -1, -1, 1, -1, -1, -1]


def test_unknown_words_are_named():
    with pytest.raises(captions.UnknownWordError, match="unicorn"):
        captions.encode("a red unicorn")
    with pytest.raises(captions.UnknownWordError, match="13"):
        captions.encode("red " * 13)


# the classifier ---------------------------------------------------------------------------------------------------


def verdicts(pairs):
    """Share of (clip, scene) for which colour and shape are right."""
    seen = [(look(clip[::4]), scene) for clip, scene in pairs]
    return [np.mean([getattr(s, name) == getattr(scene, name) for s, scene in seen]) for name in ("color", "shape")]


def test_the_classifier_is_right_on_real_scenes():
    color, shape = verdicts((scenes.render(told(i)), told(i)) for i in range(40))
    assert color == 1.0 and shape >= 0.95


def test_the_classifier_says_no_to_wrong_ones():
    wrong = ((scenes.render(told(i).recolored("red").reshaped("cross")), told(i).recolored("blue").reshaped("circle")) for i in range(6))
    assert verdicts(wrong) == [0.0, 0.0]


def test_the_classifier_sees_nothing_where_nothing_is():
    assert all(look(scenes.render(told(i).emptied())[::4]).color is None for i in range(20))


def test_the_classifier_survives_noise_and_softness():
    soft = torch.nn.functional.avg_pool2d
    pairs = []
    for index in range(8):
        clip = torch.from_numpy(scenes.render(told(index)))[::4].permute(0, 3, 1, 2)
        clip = soft(clip, 3, stride=1, padding=1, count_include_pad=False) + 0.03 * torch.randn(clip.shape)
        pairs.append((clip.permute(0, 2, 3, 1).numpy().repeat(4, 0), told(index)))
    color, shape = verdicts(pairs)
    assert color == 1.0 and shape >= 0.75


@pytest.mark.parametrize("height, width", [(3, 90), (110, 3), (15, 15), (120, 120)])
def test_the_classifier_names_something_for_any_patch(height, width):
    clip = np.full((3, 128, 128, 3), 0.5, np.float32)
    clip[:, 4 : 4 + height, 4 : 4 + width] = COLORS["red"]
    assert look(clip).color == "red" and look(clip).shape in SHAPES
