"""The committed weights and the scripts that made them."""

import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers, convert_wan_vae_to_diffusers
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample
from einops import rearrange
from safetensors import safe_open

from toy import dataset, layout, linear, scenes, train_transformer, train_vae
from toy.load import TRANSFORMER_FILE, VAE_FILE, WEIGHTS, load_transformer, load_vae
from toy.model import new_transformer, new_vae


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "make, name, read",
    [
        (new_transformer, layout.original_transformer, convert_wan_transformer_to_diffusers),
        (new_vae, layout.original_vae, convert_wan_vae_to_diffusers),
    ],
)
def test_wans_own_names_are_what_diffusers_reads(make, name, read):
    state = make().state_dict()
    assert same(read(dict(name(state))), state)
    assert not same(dict(name(state)), state)


def test_the_weights_are_small_and_in_wans_names():
    files = [WEIGHTS / TRANSFORMER_FILE, WEIGHTS / VAE_FILE]
    assert sum(file.stat().st_size for file in files) <= 24e6
    sizes = []
    for file, wanted in zip(files, ("blocks.0.self_attn.q.weight", "decoder.upsamples.3.time_conv.weight")):
        with safe_open(file, "pt") as stored:
            assert wanted in stored.keys()
            tensors = [stored.get_tensor(name) for name in stored.keys()]
        assert {tensor.dtype for tensor in tensors} == {torch.float16}
        sizes.append(sum(tensor.numel() for tensor in tensors))
    assert sizes[0] <= 8e6


def test_the_vae_speaks_wans_latents():
    """Normalised by the constants that every host carries, its latents have a mean square of about 1."""
    vae = load_vae()
    mean, std = layout.latent_statistics(vae)
    clip = torch.from_numpy(scenes.render(scenes.scene("test", 1), range(5)))
    with torch.no_grad():
        raw = vae.encode(rearrange(clip * 2 - 1, "t h w c -> 1 c t h w")).latent_dist.mode()
    z = (raw[0] - mean.view(-1, 1, 1, 1)) / std.view(-1, 1, 1, 1)
    assert 0.3 < z.square().mean() < 3


def test_folding_the_statistics_changes_only_the_scale():
    vae = new_vae().eval()
    mean, std = layout.latent_statistics(vae)
    frames = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    with torch.no_grad():
        z = vae.encode(frames).latent_dist.mode()
        picture = vae.decode(z, return_dict=False)[0]
        vae.load_state_dict(layout.fold_normalisation(vae.state_dict(), mean, std))
        folded = vae.encode(frames).latent_dist.mode()
        assert torch.allclose(folded, z * std.view(1, -1, 1, 1, 1) + mean.view(1, -1, 1, 1, 1), atol=1e-5)
        assert torch.allclose(vae.decode(folded, return_dict=False)[0], picture, atol=1e-4)


def test_the_transformer_loads_and_answers():
    net = load_transformer()
    with torch.no_grad():
        answer = net(torch.randn(1, 16, 1, 4, 4), torch.tensor([500.0]), torch.zeros(1, 12, 4096), return_dict=False)[0]
    assert answer.shape == (1, 16, 1, 4, 4) and answer.isfinite().all()


# the training scripts ---------------------------------------------------------------------------------------------


def test_linear_latents_keep_what_fits_into_sixteen_numbers():
    clips = [torch.from_numpy(scenes.render(scenes.scene("train", index))) for index in range(6)]
    codec = linear.fit(clips)
    latents = codec.encode(clips[0])
    assert latents.shape == (16, 5, 16, 16)
    error = (codec.decode(latents) - clips[0]).square().mean()
    assert -10 * error.log10() > 24
    again = codec.encode(codec.decode(latents))
    assert torch.allclose(again[:, 1:], latents[:, 1:], atol=1e-3)  # frame 0 alone cannot say that it stood still


def test_a_whole_clip_resamples_as_the_cached_calls_do(monkeypatch):
    vae = new_vae().eval()
    frames = torch.randn(1, 3, 9, 16, 16)
    with torch.no_grad():
        encoded = vae._encode(frames)
        latents = torch.randn(1, 16, 3, 2, 2)
        decoded = vae.decode(latents, return_dict=False)[0]
        monkeypatch.setattr(WanResample, "forward", train_vae.whole_clip)
        assert torch.allclose(vae.quant_conv(vae.encoder(frames)), encoded, atol=1e-5)
        assert torch.allclose(vae.decoder(vae.post_quant_conv(latents)).clamp(-1, 1), decoded, atol=1e-5)


def test_plain_attention_is_wans_attention():
    net, words = new_transformer().eval(), torch.randn(1, 5, 4096)
    z, t = torch.randn(1, 16, 2, 4, 6), torch.tensor([300.0])
    with torch.no_grad():
        expected = net(z, t, words, return_dict=False)[0]
        for block in net.blocks:
            block.attn1.processor = block.attn2.processor = train_transformer.PlainAttention()
        assert torch.allclose(net(z, t, words, return_dict=False)[0], expected, atol=1e-5)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "CHUNK", 4)
        codec = linear.fit([torch.from_numpy(scenes.render(scenes.scene("train", 0)))])
        codec.save(folder / "linear.npz")
        for kind in ("images", "clips"):
            np.savez(folder / f"{kind}-000.npz", **dataset.chunk(codec, kind, 0))
    return folder


def test_the_transformers_training_resumes(data, tmp_path, monkeypatch):
    monkeypatch.setattr(train_transformer, "BATCH", {"image": 2, "video": 1})
    for last in (1, 2):
        arguments = ["train", "--data", str(data), "--run", str(tmp_path), "--plan", f"image:1,video:{last}", "--threads", "1"]
        monkeypatch.setattr("sys.argv", arguments)
        train_transformer.main()
        assert torch.load(tmp_path / "checkpoint.pt")["step"] == last


def test_the_vaes_training_resumes(data, tmp_path, monkeypatch):
    monkeypatch.setattr(train_vae, "SHAPES", ((5, 1),))
    monkeypatch.setattr(WanResample, "forward", WanResample.forward)
    for last in (1, 2):
        arguments = ["train", "--data", str(data), "--run", str(tmp_path), "--plan", f"apart:1,joint:{last}", "--threads", "1"]
        monkeypatch.setattr("sys.argv", arguments)
        train_vae.main()
        assert torch.load(tmp_path / "checkpoint.pt")["step"] == last


def test_plans():
    assert train_transformer.read_plan("image:3,cooldown:7") == [("image", 0, 3), ("cooldown", 3, 7)]
    assert train_transformer.rate("cooldown", 5, 3, 7) == 0.5 and train_transformer.rate("video", 500, 3, 900) == 1.0
