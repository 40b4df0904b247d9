"""Recurrent cells against frozen values of torch, torch itself and a loop in NumPy; truncated rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.config import ConfigError
from cnnjax.models import create_model

GATES = {"lstm": ("i", "f", "g", "o"), "gru": ("r", "z", "n")}
# torch 2, float64: hidden 2, input 3; each weight and bias 0.5 * RandomState(7).randn in the order of torch's
# parameters, input RandomState(8).standard_normal((1, 4, 3)).
FROZEN = {
    "lstm": [[-0.0305126, -0.0416515], [-0.6184740, -0.1966293], [-0.1845888, -0.2116353], [-0.6780177, -0.6018912]],
    "gru": [[-0.5850202, -0.1387137], [-0.5946663, -0.1249262], [-0.5694460, -0.4746855], [-0.5128821, -0.5931298]],
}  # fmt: skip


def torch_parameters(kind, inputs, hidden, random):
    g = len(GATES[kind]) * hidden
    return [0.5 * random.standard_normal(shape) for shape in ((g, inputs), (g, hidden), (g,), (g,))]


def as_cell(kind, parameters):
    """The variables of linen's cell. Its input and hidden biases of a gate are one, but for GRU's candidate."""
    w_ih, w_hh, b_ih, b_hh = parameters
    hidden = w_hh.shape[1]
    cell = {}
    for k, gate in enumerate(GATES[kind]):
        rows = slice(k * hidden, (k + 1) * hidden)
        of_input, of_hidden = {"kernel": w_ih[rows].T}, {"kernel": w_hh[rows].T}
        if kind == "lstm":
            of_hidden["bias"] = b_ih[rows] + b_hh[rows]
        elif gate == "n":
            of_input["bias"], of_hidden["bias"] = b_ih[rows], b_hh[rows]
        else:
            of_input["bias"] = b_ih[rows] + b_hh[rows]
        cell[f"i{gate}"], cell[f"h{gate}"] = of_input, of_hidden
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), cell)


def states(model, params, images, rows=None):
    output = {"kernel": jnp.zeros((model.hidden * (1 + model.bidirectional), 10)), "bias": jnp.zeros(10)}
    variables = {"params": {**params, "output": output}}
    return model.apply(variables, images, rows=rows, mutable=["stages"])[1]["stages"]


@pytest.mark.parametrize("kind", GATES)
def test_states_are_those_of_torch(kind):
    parameters = torch_parameters(kind, 3, 2, np.random.RandomState(7))
    x = np.random.RandomState(8).standard_normal((1, 4, 3)).astype(np.float32)
    model = create_model(f"{kind}_rows", options=("hidden=2",))
    found = states(model, {f"{kind}1": as_cell(kind, parameters)}, x[..., None])
    np.testing.assert_allclose(found["rows1"][0], FROZEN[kind], atol=1e-6)
    np.testing.assert_allclose(found["state"][0], FROZEN[kind][-1], atol=1e-6)


@pytest.mark.parametrize("kind", GATES)
def test_both_directions_two_layers_and_truncated_rows_are_those_of_torch(kind):
    torch = pytest.importorskip("torch")
    random, lengths = np.random.RandomState(1), [6, 2, 4]
    network = getattr(torch.nn, kind.upper())(5, 3, num_layers=2, bidirectional=True, batch_first=True)
    params, values = {}, {}
    for layer, inputs in enumerate((5, 6)):
        for suffix, up in (("", ""), ("_reverse", "_up")):
            parameters = torch_parameters(kind, inputs, 3, random)
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            values |= {f"{n}_l{layer}{suffix}": p for n, p in zip(names, parameters, strict=True)}
            params[f"{kind}{layer + 1}{up}"] = as_cell(kind, parameters)
    network.load_state_dict({name: torch.tensor(v) for name, v in values.items()})
    x = random.standard_normal((3, 6, 5)).astype(np.float32)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.tensor(x), lengths, batch_first=True, enforce_sorted=False
    )
    with torch.no_grad():
        out, last = network(packed)
        wanted, _ = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
    last = last[0] if kind == "lstm" else last
    model = create_model(f"{kind}_rows", options=("hidden=3", "layers=2", "bidirectional=true"))
    found = states(model, params, x[..., None], jnp.array(lengths))
    np.testing.assert_allclose(found["rows2"], wanted.numpy(), atol=1e-6)
    np.testing.assert_allclose(found["state"], np.concatenate(list(last[2:].numpy()), axis=1), atol=1e-6)


@pytest.mark.parametrize("options", [(), ("bidirectional=true",)])
def test_what_is_below_the_rows_that_count_changes_nothing(options):
    model = create_model("gru_rows", options=("hidden=4", *options))
    x = jax.random.normal(jax.random.key(0), (2, 7, 5, 1))
    variables = model.init(jax.random.key(1), x)
    rows = jnp.array([3, 3])
    cut, whole = model.apply(variables, x[:, :3]), model.apply(variables, x, rows=rows)
    np.testing.assert_allclose(cut, whole, atol=1e-6)
    other = model.apply(variables, x.at[:, 3:].add(9.0), rows=rows)
    np.testing.assert_array_equal(whole, other)
    assert np.abs(model.apply(variables, x) - whole).max() > 1e-3


@pytest.mark.parametrize("kind", GATES)
def test_training_begins_with_open_forget_gates(kind):
    """Of an LSTM the biases b_hf are 1; all other parameters stay as they are."""
    model = create_model(f"{kind}_rows", options=("hidden=2", "bidirectional=true"))
    cells = [as_cell(kind, torch_parameters(kind, 3, 2, np.random.RandomState(i))) for i in (0, 1)]
    params = dict(zip((f"{kind}1", f"{kind}1_up"), cells, strict=True))
    begun = model.initialize_from({"params": params}, jnp.zeros((1, 4, 3, 1)))["params"]
    for name, cell in params.items():
        for dense, values in cell.items():
            for leaf, value in values.items():
                wanted = 1.0 if (dense, leaf) == ("hf", "bias") else value
                np.testing.assert_array_equal(begun[name][dense][leaf], np.broadcast_to(wanted, value.shape))


def test_bfloat16_is_close_and_an_unknown_cell_is_one_line():
    x = jax.random.normal(jax.random.key(0), (2, 7, 5, 1))
    exact, rough = create_model("lstm_rows"), create_model("lstm_rows", dtype="bfloat16")
    variables = exact.init(jax.random.key(1), x)
    a, b = exact.apply(variables, x), rough.apply(variables, x).astype(jnp.float32)
    assert rough.apply(variables, x).dtype == jnp.bfloat16
    assert 0 < np.abs(a - b).max() < 0.05
    with pytest.raises(ConfigError, match="cell='rnn': choose one of lstm, gru"):
        create_model("lstm_rows", options=("cell=rnn",)).init(jax.random.key(1), x)
