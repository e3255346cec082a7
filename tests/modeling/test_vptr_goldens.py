"""V-PTR against the official JAX code: values, loss, gradients, traces, the full encoder, one CQL update."""

import numpy as np
import pytest
import torch

from hf_vpdd.conversion.icvf_names import convert_icvf
from hf_vpdd.modeling.vptr import VPTRConfig, VPTRForRobotPolicy, VPTRForValuePrediction
from hf_vpdd.training.objectives.cql import CqlBatch, CqlDraws, CqlSettings, SlowCritics, cql_step, make_optimizers
from hf_vpdd.training.objectives.icvf import icvf_loss
from hf_vpdd.training.objectives.targets import update_target

from .vptr_goldens import load, observation, recipe, shape_of, tensors, value_network


CASES = ("mlp_relu", "mlp_layernorm", "monolithic", "impala32")


def loss_of(data, case, index, model, target):
    batch = tensors(data, f"{case}/batch{index}/")
    names = ("observations", "next_observations", "goals", "desired_goals")
    images = [observation(batch[name]) for name in names]
    numbers = [torch.from_numpy(batch[n]) for n in ("rewards", "desired_rewards", "masks", "desired_masks")]
    settings = {name: data[f"{case}/config/{name}"].item() for name in ("discount", "expectile", "min_q", "no_intent")}
    return icvf_loss(model, target, *images, *numbers, **settings)


@pytest.mark.parametrize("case", CASES)
def test_icvf_loss_values_and_gradients(case):
    data = load("icvf.npz")
    model, target = value_network(data, case), value_network(data, case, "target_params")
    loss = loss_of(data, case, 0, model, target)
    np.testing.assert_allclose(
        loss.values, data[f"{case}/out/v_sgz"], atol=2e-5 * abs(data[f"{case}/out/v_sgz"]).max()
    )
    assert loss.loss.item() == pytest.approx(data[f"{case}/loss"].item(), rel=2e-5)
    info = {"advantage": "adv mean", "accept": "accept prob", "value_at_intent": "v_zz"}
    for ours, theirs in info.items():
        if f"{case}/info/{theirs}" in data.files:
            expected = data[f"{case}/info/{theirs}"].item()
            assert getattr(loss, ours).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    loss.loss.backward()
    wanted = convert_icvf(tensors(data, f"{case}/grads/"))
    ours = dict(model.named_parameters())
    assert wanted.keys() == ours.keys()
    for name, gradient in wanted.items():
        cosine = torch.cosine_similarity(gradient.flatten().double(), ours[name].grad.flatten().double(), dim=0)
        assert 1 - cosine.item() < 1e-4, name


@pytest.mark.parametrize("case", CASES)
def test_icvf_update_order_along_the_trace(case):
    data = load("icvf.npz")
    model, target = value_network(data, case), value_network(data, case, "target_params")
    start, slow_start = value_network(data, case), value_network(data, case, "target_params")
    config = {name: value.item() for name, value in tensors(data, f"{case}/config/").items()}
    adam = torch.optim.Adam(model.parameters(), config["adam_learning_rate"], eps=config["adam_eps"])
    batches = len({key.split("/")[1] for key in data.files if key.startswith(f"{case}/batch")})
    for step, expected in enumerate(data[f"{case}/trace/value_loss"]):
        loss = loss_of(data, case, step % batches, model, target)
        assert loss.loss.item() == pytest.approx(expected, rel=1e-3)
        adam.zero_grad()
        loss.loss.backward()
        update_target(target, model, config["target_update_rate"])  # from the online network before its step
        adam.step()
    for network, before, group, bar in ((model, start, "params", 5e-2), (target, slow_start, "target_params", 2e-3)):
        wanted = convert_icvf(tensors(data, f"{case}/trace/final_{group}/"))
        ours, first = network.state_dict(), before.state_dict()
        change = torch.cat([(wanted[name] - first[name]).flatten().double() for name in wanted])
        error = torch.cat([(wanted[name] - ours[name]).flatten().double() for name in wanted])
        assert (error.norm() / change.norm()).item() < bar


def test_full_resnet_encoder_and_heads():
    data = load("icvf.npz")
    case = "resnetv2_50_224"
    names = [(str(n), shape_of(str(s))) for n, s in zip(data[f"{case}/param_names"], data[f"{case}/param_shapes"])]
    arrays = {name: recipe(name, shape) for name, shape in names}
    for (name, _), checksum in zip(names, data[f"{case}/param_checksum"]):
        assert arrays[name].sum(dtype=np.float64) == pytest.approx(checksum, rel=1e-6, abs=1e-3), name
    model = VPTRForValuePrediction(VPTRConfig())
    assert sum(p.numel() for p in model.parameters()) == data[f"{case}/n_params_total"].item()
    model.load_state_dict(convert_icvf(arrays))
    with torch.no_grad():
        features = model.encode(observation(data[f"{case}/batch0/observations"]))
        expected = data[f"{case}/out/enc_obs"]
        assert abs(features.numpy() - expected).max() < 1e-3 * abs(expected).max()
        loss = loss_of_full(data, case, model)
    assert loss.loss.item() == pytest.approx(data[f"{case}/loss"].item(), rel=2e-4)


def loss_of_full(data, case, model):
    batch = tensors(data, f"{case}/batch0/")
    images = [observation(batch[n]) for n in ("observations", "next_observations", "goals", "desired_goals")]
    numbers = [torch.from_numpy(batch[n]) for n in ("rewards", "desired_rewards", "masks", "desired_masks")]
    return icvf_loss(model, model, *images, *numbers)


class Flatten(torch.nn.Module):
    """The stand-in encoder of the CQL goldens: pixels / 255, channels last."""

    def forward(self, pixel_values):
        return pixel_values.permute(0, 2, 3, 1).flatten(1)


def policy_of(data, prefix):
    """The policy with the parameters under `prefix`, and its slow critics."""
    config = VPTRConfig.tiny(
        image_size=4, impala_widths=[4, 4, 48], latent_size=16, policy_hidden_sizes=[32, 32, 32], action_dim=7,
        state_dim=7, tasks=list("abcde"),
    )  # fmt: skip
    policy = VPTRForRobotPolicy(config)
    policy.actor_encoder, policy.critic_encoder = Flatten(), Flatten()
    slow = SlowCritics(policy)
    theirs = {name: torch.from_numpy(array) for name, array in tensors(data, prefix).items()}

    def bottleneck(part, source):
        part.load_state_dict({
            "dense.weight": theirs[f"{source}/Dense_0/kernel"].T, "dense.bias": theirs[f"{source}/Dense_0/bias"],
            "norm.weight": theirs[f"{source}/LayerNorm_0/scale"], "norm.bias": theirs[f"{source}/LayerNorm_0/bias"],
        })  # fmt: skip

    def critics(part, source):
        source = f"{source}/network/VmapStateActionValue_0/MLP_0"
        for index, layer in enumerate([*part.layers, part.out]):
            layer.weight.data.copy_(theirs[f"{source}/Dense_{index}/kernel"].transpose(1, 2))
            layer.bias.data.copy_(theirs[f"{source}/Dense_{index}/bias"])

    bottleneck(policy.actor_bottleneck, "actor/PixelMultiplexerEncoder_0")
    bottleneck(policy.critic_bottleneck, "critic_encoder/encoder")
    bottleneck(slow.critic_bottleneck, "target_encoder/encoder")
    critics(policy.critics, "critic_decoder")
    critics(slow.critics, "target_decoder")
    linear = [f"MLP_0/Dense_{i}" for i in range(3)] + ["Dense_0", "Dense_1"]
    for layer, name in zip([*policy.actor.layers, policy.actor.mean, policy.actor.log_std], linear):
        layer.weight.data.copy_(theirs[f"actor/network/{name}/kernel"].T)
        layer.bias.data.copy_(theirs[f"actor/network/{name}/bias"])
    policy.log_temperature.data.copy_(theirs["temp/log_temp"])
    return policy, slow


@pytest.mark.parametrize("case", ["alpha5_calql", "alpha5_cql"])
def test_cql_update(case):
    data = load("cql.npz")
    policy, slow = policy_of(data, "params/")
    pixels = {key: observation(data[f"batch/{key}/pixels"][..., 0]) for key in ("observations", "next_observations")}
    batch = CqlBatch(
        pixels["observations"], pixels["next_observations"],
        *(torch.from_numpy(data[f"batch/{n}"]) for n in ("actions", "rewards", "masks", "mc_returns")),
        state=torch.from_numpy(data["batch/observations/state"]),
        next_state=torch.from_numpy(data["batch/next_observations/state"]),
        condition={"task_ids": torch.from_numpy(data["batch/observations/task_id"]).argmax(-1)},
    )  # fmt: skip

    def rows(name):
        return torch.from_numpy(data[f"draws/{name}"]).unflatten(0, (12, 4))

    draws = CqlDraws(
        torch.from_numpy(data["draws/next_actions"]).transpose(0, 1), rows("policy_actions"), rows("policy_log_probs"),
        rows("random_actions"), torch.from_numpy(data["draws/actor_noise"]),
    )  # fmt: skip
    # our own densities of the same actions are theirs
    at = policy.act(batch.pixel_values, batch.state, **batch.condition)
    np.testing.assert_allclose(at.mean.detach(), data["out/actor_loc"], atol=2e-5)
    np.testing.assert_allclose(at.std.detach(), data["out/actor_std"], rtol=2e-5)
    settings = CqlSettings(bound_with_returns=case == "alpha5_calql")
    info = cql_step(policy, slow, make_optimizers(policy), batch, settings, draws)
    names = {
        "critic_loss": "critic_loss", "td_loss": "bellman_loss", "cql_loss": "cql_loss_mean", "q_data": "q_data_avg",
        "actor_loss": "actor_loss", "entropy": "entropy", "temperature_loss": "temperature_loss",
    }  # fmt: skip
    for ours, theirs in names.items():
        assert info[ours].item() == pytest.approx(data[f"{case}/info/{theirs}"].item(), rel=5e-6), ours

    before, slow_before = policy_of(data, "params/")
    wanted, slow_wanted = policy_of(data, f"{case}/new_params/")
    for ours, expected, first, bar in (
        (policy, wanted, before, 2e-3),
        (slow, slow_wanted, slow_before, 1e-4),
    ):
        ours, expected, first = (dict(x.named_parameters()) for x in (ours, expected, first))
        change = torch.cat([(expected[n] - first[n]).flatten().double() for n in expected])
        error = torch.cat([(expected[n] - ours[n]).flatten().double() for n in expected])
        assert (error.norm() / change.norm()).item() < bar
