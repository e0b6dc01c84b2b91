"""Brax: the policy and value networks of PPO."""

import jax

from tests.clients.contract import Client, check
from tests.clients.packages import client

networks = client("brax.training.agents.ppo.networks", "brax")


def test_ppo_networks(record_property):
    ppo = networks.make_ppo_networks(observation_size=6, action_size=2)
    keys = jax.random.split(jax.random.key(0))
    params = {
        "policy": ppo.policy_network.init(keys[0]),
        "value": ppo.value_network.init(keys[1]),
    }

    def fn(params, observations):
        logits = ppo.policy_network.apply(None, params["policy"], observations)
        return logits, ppo.value_network.apply(None, params["value"], observations)

    x = jax.random.normal(jax.random.key(1), (16, 6))
    sites = [f"policy/params/hidden_{i}" for i in range(4)]
    sites += [f"value/params/hidden_{i}" for i in range(5)]
    check(Client("PPO policy and value", "brax", fn, params, (x,), sites), record_property)
