"""What acts while collecting: chance, agents of any origin, and mixtures."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from worldflow.actions import ActionSpec
from worldflow.envs.collect import CollectConfig, collect
from worldflow.envs.policies import (
    MixturePolicy,
    RandomPolicy,
    load_agent,
    make_policy,
)
from worldflow.envs.policy_config import PolicyConfig
from worldflow.envs.sources import SourceConfig, make_source
from worldflow.errors import ConfigError, DataError

CATCH = SourceConfig("worldflow/Catch-v0")


def config(folder: Path, steps: int = 100, **changes: Any) -> CollectConfig:
    plain = CollectConfig(CATCH, steps=steps, seed=5, out=str(folder), progress=False)
    return replace(plain, **changes)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("spec", [ActionSpec("discrete", n=5), ActionSpec("none")])
def test_random_actions_stick_with_the_stated_probability(spec: ActionSpec) -> None:
    policy = RandomPolicy(spec, sticky=0.6)
    policy.begin(np.random.default_rng(0))
    actions = np.array([policy.act(np.zeros((4, 4, 3))) for _ in range(20_000)])
    spec.validate(actions)
    assert actions.dtype == np.int64
    if spec.kind == "discrete":
        # A new draw repeats the last action by chance, too: 0.6 + 0.4 / 5.
        assert (actions[1:] == actions[:-1]).mean() == pytest.approx(0.68, abs=0.01)
        np.testing.assert_allclose(np.bincount(actions) / len(actions), 0.2, atol=0.02)


def test_weighted_actions_are_drawn_as_often_as_their_weights_say() -> None:
    policy = RandomPolicy(ActionSpec("discrete", n=4), 0.0, weights=[1.0, 0.0, 6.0, 3.0])
    policy.begin(np.random.default_rng(0))
    actions = np.array([policy.act(np.zeros((4, 4, 3))) for _ in range(20_000)])
    assert actions.dtype == np.int64
    shares = np.bincount(actions, minlength=4) / len(actions)
    assert shares[1] == 0.0
    np.testing.assert_allclose(shares, [0.1, 0.0, 0.6, 0.3], atol=0.01)


def test_weights_belong_to_discrete_actions_one_for_each(tmp_path: Path) -> None:
    policy = PolicyConfig(weights=[1.0, 2.0])
    for spec in (
        ActionSpec("discrete", n=3),
        ActionSpec("none"),
        ActionSpec("box", low=(-1.0, -1.0), high=(1.0, 1.0)),
    ):
        with pytest.raises(ConfigError, match=r"policy\.weights=\[1\.0, 2\.0\] has 2 numbers"):
            make_policy(policy, spec, (64, 64, 3), None)


def test_weights_are_recorded_with_the_data(tmp_path: Path) -> None:
    plain = collect(config(tmp_path / "plain", steps=7))
    assert plain.metadata.collect["policy"] == {"kind": "random", "sticky": 0.5}
    left = PolicyConfig(sticky=0.0, weights=[1, 0, 0])
    data = collect(config(tmp_path / "left", steps=7, policy=left))
    assert (data.read(0).actions == 0).all()
    with pytest.raises(DataError, match="'collect'"):
        collect(config(tmp_path / "left", policy=replace(left, weights=None)))


def test_a_mixture_chooses_per_episode() -> None:
    class Fixed:
        def __init__(self, action: int) -> None:
            self.action = action

        def begin(self, generator: np.random.Generator) -> None:
            """Nothing to draw."""

        def act(self, frame: np.ndarray) -> np.ndarray:
            return np.asarray(self.action)

    mixture = MixturePolicy(Fixed(1), Fixed(0), 0.3)
    chosen = []
    for i in range(5000):
        mixture.begin(np.random.default_rng(i))
        actions = {int(mixture.act(np.zeros((4, 4, 3)))) for _ in range(5)}
        assert len(actions) == 1
        chosen += actions
    assert np.mean(chosen) == pytest.approx(0.3, abs=0.02)


def test_a_saved_agent_acts(tmp_path: Path) -> None:
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    from worldflow.agents.dreams import DreamConfig
    from worldflow.agents.saved import AgentCard, save_weights

    env = make_source(CATCH)
    model = stable_baselines3.PPO("CnnPolicy", env, n_steps=8, batch_size=8, seed=0, device="cpu")
    save_weights(model, tmp_path / "agent.zip")
    AgentCard(DreamConfig("catch"), world_sha256="unknown").save(tmp_path)
    policy = PolicyConfig(kind="mixture", agent=str(tmp_path), agent_probability=0.5)
    first = collect(config(tmp_path / "a", policy=policy))
    collect(config(tmp_path / "b", policy=policy))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    acted = 0
    for i in range(len(first)):
        episode = first.read(i)
        wanted = model.predict(episode.frames[:-1], deterministic=True)[0]
        acted += (episode.actions[1:] == wanted).all()
    assert 3 <= acted <= 12


class FakeAgent:
    """Answers with the number of frames it sees that are not blank."""

    action_space = spaces.Discrete(3)
    frame_shape = (64, 64, 3)
    frame_stack = 2

    def __init__(self, sha256: str = "0") -> None:
        self.sha256 = sha256

    def see(self, frame: np.ndarray) -> np.ndarray:
        return frame

    def act(self, stacked: np.ndarray) -> np.ndarray:
        assert stacked.shape == (64, 64, 6)
        return np.array(stacked.reshape(64, 64, 2, 3).any(axis=(0, 1, 3)).sum())


def test_an_agent_acts_on_its_stack_of_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = PolicyConfig(kind="agent", agent="somewhere")
    given = FakeAgent("first")
    monkeypatch.setattr("worldflow.envs.collect.load_agent", lambda config: given)
    dataset = collect(config(tmp_path / "data", policy=policy))
    for i in range(len(dataset)):
        assert dataset.read(i).actions.tolist() == [0, 1, 2, 2, 2, 2, 2, 2]
    assert dataset.metadata.collect["policy"]["agent_sha256"] == "first"
    given.sha256 = "second"
    with pytest.raises(DataError, match="'collect'"):
        collect(config(tmp_path / "data", policy=policy))
    spec = ActionSpec("discrete", n=3)
    with pytest.raises(ConfigError, match="acts in"):
        make_policy(policy, ActionSpec("discrete", n=4), (64, 64, 3), given)
    with pytest.raises(ConfigError, match=r"source\.frame_size"):
        make_policy(policy, spec, (48, 48, 3), given)


@pytest.mark.parametrize("name", ["ppo", "a2c", "dqn"])
@pytest.mark.parametrize("stack", [1, 3])
def test_an_agent_of_stable_baselines3_acts(tmp_path: Path, name: str, stack: int) -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

    venv = VecFrameStack(DummyVecEnv([lambda: make_source(CATCH)]), stack, channels_order="last")
    more = {"buffer_size": 1} if name == "dqn" else {}
    model = getattr(sb3, name.upper())("CnnPolicy", venv, seed=0, device="cpu", **more)
    path = tmp_path / "mine.zip"
    model.save(path)
    policy = PolicyConfig(kind="agent", agent=str(path), algorithm=name)
    agent = load_agent(policy)
    assert agent is not None
    assert (agent.frame_shape, agent.frame_stack) == ((64, 64, 3), stack)
    dataset = collect(config(tmp_path / "data", steps=14, policy=policy))
    recorded = dataset.metadata.collect["policy"]
    assert recorded["agent_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert recorded["algorithm"] == name
    episode = dataset.read(1)
    past = np.concatenate([np.zeros((stack - 1, 64, 64, 3), np.uint8), episode.frames])
    for t in range(7):
        seen = np.concatenate(list(past[t : t + stack]), axis=-1)
        assert episode.actions[t + 1] == model.predict(seen, deterministic=True)[0]


def test_agents_that_cannot_be_loaded(tmp_path: Path) -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    path = tmp_path / "blind.zip"
    with pytest.raises(ConfigError, match="is missing"):
        load_agent(PolicyConfig(kind="agent", agent=str(path), algorithm="ppo"))
    sb3.PPO("MlpPolicy", "CartPole-v1", device="cpu").save(path)
    with pytest.raises(ConfigError, match="colour frames"):
        load_agent(PolicyConfig(kind="agent", agent=str(path), algorithm="ppo"))
    with pytest.raises(ConfigError, match="does not fit sac"):
        load_agent(PolicyConfig(kind="agent", agent=str(path), algorithm="sac"))
    with pytest.raises(ConfigError, match=r"policy\.algorithm.*a2c"):
        load_agent(PolicyConfig(kind="agent", agent=str(path), algorithm="td3"))


def test_policy_settings_are_checked() -> None:
    for settings, message in (
        ({"kind": "best"}, "policy.kind"),
        ({"sticky": 1.5}, "policy.sticky"),
        ({"weights": []}, "policy.weights is"),
        ({"weights": [0.0, 0.0]}, "positive sum"),
        ({"weights": [1.0, -1.0, 2.0]}, "not negative"),
        ({"weights": [1.0, float("nan")]}, "finite"),
        ({"kind": "agent", "agent": "x", "weights": [1.0]}, "drawn by chance"),
        ({"kind": "agent"}, "agent's folder"),
        ({"kind": "random", "agent": "x"}, "agent's folder"),
        ({"kind": "agent", "agent": "x.zip"}, "policy.algorithm"),
        ({"kind": "agent", "agent": "x", "algorithm": "ppo"}, "policy.algorithm"),
        ({"kind": "mixture", "agent": "x", "agent_probability": -1.0}, "agent_probability"),
    ):
        with pytest.raises(ConfigError, match=message):
            PolicyConfig(**settings)  # type: ignore[arg-type]
