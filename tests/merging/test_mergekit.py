"""A recipe written for mergekit gives mergekit 0.1.5's numbers: the same file runs in both, the results are compared.

mergekit lives in an environment of its own; all cases run in one process there, because its import takes long.
"""

import pytest
import torch
import yaml
from safetensors.torch import load_file

from merging import export, open_recipe
from merging.recipe import read_recipe, recipe_yaml

pytestmark = pytest.mark.oracle

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 14,
    "intermediate_size": 23,
    "num_hidden_layers": 3,
    "num_attention_heads": 7,
    "num_key_value_heads": 1,
    "head_dim": 2,
    "vocab_size": 31,
    "max_position_embeddings": 17,
}

MLP = [{"filter": "mlp", "value": 0.6}, {"filter": "self_attn.q", "value": -0.2}, {"value": 0.1}]

# name: (stored dtype, tied head, the recipe besides its folders, ω of each model)
CASES = {
    "sum": ("float32", False, {"merge_method": "task_arithmetic"}, [0.7, -0.4, 1.3]),
    "sum tied": ("float32", True, {"merge_method": "task_arithmetic"}, [0.7, -0.4, 1.3]),
    "sum normalized": (
        "float32",
        False,
        {"merge_method": "task_arithmetic", "parameters": {"normalize": True}},
        [0.7, 0.4, 1.3],
    ),
    "sum lambda": (
        "float32",
        False,
        {"merge_method": "task_arithmetic", "parameters": {"lambda": 0.3}},
        [0.7, 0.4, 1.3],
    ),
    "sum lambda normalized": (
        "float32",
        False,
        {"merge_method": "task_arithmetic", "parameters": {"lambda": -2.0, "normalize": True}},
        [1, 2, 0],
    ),
    "sum gradients": (
        "float32",
        False,
        {"merge_method": "task_arithmetic"},
        [[0.0, 1.0], [1.0, 0.25, -1.0, 0.5], [0.3]],
    ),
    "sum filters": ("float32", False, {"merge_method": "task_arithmetic"}, [MLP, 0.5, [0.0, 0.9]]),
    "sum filters of gradients": (
        "float32",
        False,
        {"merge_method": "task_arithmetic"},
        [
            [{"filter": "down_proj", "value": [0.1, 0.9]}, {"filter": "*", "value": 0.2}],
            0.5,
            {"value": 0.4},
        ],
    ),
    "sum of a global weight": (
        "float32",
        False,
        {"merge_method": "task_arithmetic", "parameters": {"weight": 0.35}},
        [None, 0.5, [{"filter": "norm", "value": 2.0}]],
    ),
    "sum of zeros": (
        "float32",
        False,
        {"merge_method": "task_arithmetic", "parameters": {"normalize": True}},
        [0.0, 0.0, 0.0],
    ),
    "sum float64": ("float64", False, {"merge_method": "task_arithmetic"}, [0.7, -0.4, 1.3]),
    "sum bfloat16": ("bfloat16", False, {"merge_method": "task_arithmetic"}, [0.7, -0.4, 1.3]),
    "sum float16": ("float16", False, {"merge_method": "task_arithmetic"}, [0.7, -0.4, 1.3]),
    "sum dtype": (
        "bfloat16",
        False,
        {"merge_method": "task_arithmetic", "dtype": "float32"},
        [0.7, -0.4, 1.3],
    ),
    "sum out_dtype": (
        "float32",
        False,
        {"merge_method": "task_arithmetic", "dtype": "float32", "out_dtype": "bfloat16"},
        [0.7, -0.4, 1.3],
    ),
    "linear": ("float32", False, {"merge_method": "linear"}, [0.7, -0.4, 1.3]),
    "linear not normalized": (
        "float32",
        False,
        {"merge_method": "linear", "parameters": {"normalize": False}},
        [0.7, -0.4, 1.3],
    ),
    "linear gradients": (
        "float32",
        True,
        {"merge_method": "linear"},
        [[0.0, 1.0], [1.0, 0.25, 0.5], 0.3],
    ),
    "linear filters": ("float32", False, {"merge_method": "linear"}, [MLP, 0.5, [0.2, 0.9]]),
    "linear bfloat16": ("bfloat16", False, {"merge_method": "linear"}, [0.7, -0.4, 1.3]),
    "linear float16": ("float16", False, {"merge_method": "linear"}, [0.7, 0.4, 1.3]),
    "linear float64": ("float64", False, {"merge_method": "linear"}, [0.7, 0.4, 1.3]),
}

# Of odd digits: with 0.7, −0.4 and 1.3 bfloat16 deltas cancel exactly here and there, and any sign is then right.
W = [{"weight": 0.7123}, {"weight": -0.4311}, {"weight": 1.3071}]
D = [
    {"weight": 0.7123, "density": 0.5},
    {"weight": -0.4311, "density": 0.31},
    {"weight": 1.3071, "density": [0.2, 0.9]},
]
NONE = [{}, {}, {}]

# name: (the recipe besides its folders, the parameters of each model); each runs on float32 and, where it says so, bfloat16
METHODS = {
    "ties": ({"merge_method": "ties"}, D),
    "ties scaled": (
        {
            "merge_method": "ties",
            "parameters": {"rescale": True, "lambda": 0.7, "normalize": False},
        },
        D,
    ),
    "ties of dense deltas": ({"merge_method": "ties", "parameters": {"int8_mask": True}}, W),
    "ties by layer": (
        {
            "merge_method": "ties",
            "parameters": {"density": [{"filter": "mlp", "value": 0.2}, {"value": 0.6}]},
        },
        W,
    ),
    "dare_linear dense": ({"merge_method": "dare_linear", "parameters": {"density": 1.0}}, W),
    "dare_linear dense normalized": (
        {"merge_method": "dare_linear", "parameters": {"normalize": True}},
        W,
    ),
    "dare_ties dense": ({"merge_method": "dare_ties"}, W),
    "dare_ties dense normalized": (
        {"merge_method": "dare_ties", "parameters": {"normalize": True}},
        W,
    ),
    "della dense": ({"merge_method": "della"}, W),
    "della_linear dense": ({"merge_method": "della_linear", "parameters": {"lambda": 1.5}}, W),
    "breadcrumbs": ({"merge_method": "breadcrumbs", "parameters": {"gamma": 0.1}}, D),
    "breadcrumbs defaults": ({"merge_method": "breadcrumbs", "parameters": {"density": 0.9}}, W),
    "breadcrumbs scaled": (
        {
            "merge_method": "breadcrumbs",
            "parameters": {"gamma": 0.05, "rescale": True, "normalize": True},
        },
        D,
    ),
    "breadcrumbs_ties": ({"merge_method": "breadcrumbs_ties", "parameters": {"gamma": 0.1}}, D),
    "sce": ({"merge_method": "sce"}, NONE),
    "sce selected": ({"merge_method": "sce", "parameters": {"select_topk": 0.3}}, NONE),
    "ram": ({"merge_method": "ram", "parameters": {"epsilon": 0.05}}, NONE),
    "ramplus_tl": ({"merge_method": "ramplus_tl", "parameters": {"epsilon": 0.1}}, NONE),
    "ramplus_tl defaults": ({"merge_method": "ramplus_tl"}, NONE),
    "model_stock": ({"merge_method": "model_stock"}, NONE),
    "model_stock by rows": (
        {"merge_method": "model_stock", "parameters": {"filter_wise": True}},
        NONE,
    ),
    "slerp": ({"merge_method": "slerp", "parameters": {"t": 0.3}}, NONE[:1]),
    "slerp by layer": (
        {
            "merge_method": "slerp",
            "parameters": {"t": [{"filter": "self_attn", "value": [0, 0.5, 1]}, {"value": 0.4}]},
        },
        NONE[:1],
    ),
    "nuslerp with a base": ({"merge_method": "nuslerp"}, W[::2]),
    "nuslerp by rows": (
        {"merge_method": "nuslerp", "parameters": {"nuslerp_flatten": False}},
        W[::2],
    ),
    "nuslerp by columns": (
        {
            "merge_method": "nuslerp",
            "parameters": {"nuslerp_flatten": False, "nuslerp_row_wise": True},
        },
        W[::2],
    ),
    "multislerp with a base": ({"merge_method": "multislerp"}, W),
    "multislerp raw": (
        {"merge_method": "multislerp", "parameters": {"normalize_weights": False}},
        W,
    ),
    "karcher with a base": ({"merge_method": "karcher", "parameters": {"max_iter": 50}}, NONE),
    "nearswap": ({"merge_method": "nearswap", "parameters": {"t": 0.02}}, NONE[:1]),
    "arcee_fusion": ({"merge_method": "arcee_fusion"}, NONE[:1]),
    "nuslerp": ({"merge_method": "nuslerp", "base": False}, W[::2]),
    "multislerp": ({"merge_method": "multislerp", "base": False}, W),
    "karcher": ({"merge_method": "karcher", "base": False}, NONE),
    "passthrough": (
        {"merge_method": "passthrough", "base": False},
        [{"scale": [{"filter": "mlp", "value": 0.5}, {"value": 1}]}],
    ),
}
HALF = [name for name in METHODS if name not in ("ram", "arcee_fusion")]
"""Also run on bfloat16. Left out: ram compares with a threshold that bfloat16 deltas stand on; arcee_fusion's threshold
is a cancellation, so that any change of precision takes other entries."""


def weights(seed, dtype, tied):
    random = torch.Generator().manual_seed(seed)
    shapes = {"model.embed_tokens.weight": (31, 14), "model.norm.weight": (14,)}
    for layer in range(3):
        at = f"model.layers.{layer}."
        shapes |= {at + f"mlp.{side}_proj.weight": (23, 14) for side in ("gate", "up")}
        shapes |= {at + f"self_attn.{side}_proj.weight": (2, 14) for side in "kv"}
        shapes |= {at + f"self_attn.{side}_proj.weight": (14, 14) for side in "qo"}
        shapes |= {at + f"{side}_layernorm.weight": (14,) for side in ("input", "post_attention")}
        shapes[at + "mlp.down_proj.weight"] = (14, 23)
    if not tied:
        shapes["lm_head.weight"] = (31, 14)
    common = torch.Generator().manual_seed(99)
    return {
        name: (
            torch.randn(shape, generator=common, dtype=torch.float64)
            + 0.05 * seed * torch.randn(shape, generator=random, dtype=torch.float64)
        ).to(getattr(torch, dtype))
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def ran(tmp_path_factory, write_once, run_mergekit):
    """Case -> (our folder, mergekit's folder, recipe): every case run by both."""
    root = tmp_path_factory.mktemp("mergekit")
    jobs, found = [], {}
    for dtype, tied in sorted({case[:2] for case in CASES.values()}):
        for number in range(4):
            config = CONFIG | {"dtype": dtype, "tie_word_embeddings": tied}
            write_once(root / f"{dtype}-{tied}-{number}", weights(number, dtype, tied), config)
    for name, (dtype, tied, document, omegas) in CASES.items():
        folder = str(root / f"{dtype}-{tied}-")
        models = [
            {"model": f"{folder}{number}"}
            | ({} if omega is None else {"parameters": {"weight": omega}})
            for number, omega in enumerate(omegas, 1)
        ]
        base = {"base_model": f"{folder}0"} if document["merge_method"] == "task_arithmetic" else {}
        path = root / f"{name.replace(' ', '_')}.yml"
        path.write_text(yaml.safe_dump(document | base | {"models": models}))
        theirs, ours = root / f"{path.stem}-mergekit", root / f"{path.stem}-ours"
        jobs.append((str(path), str(theirs)))
        recipe = read_recipe(path)
        found[name] = (export(recipe, *open_recipe(recipe), ours), theirs, recipe)
    for name in METHODS:
        for dtype in ("float32", "bfloat16") if name in HALF else ("float32",):
            document, parameters = METHODS[name]
            document = dict(document)
            folder = str(root / f"{dtype}-False-")
            base = {"base_model": f"{folder}0"} if document.pop("base", True) else {}
            models = [
                {"model": f"{folder}{number}", "parameters": given}
                if given
                else {"model": f"{folder}{number}"}
                for number, given in enumerate(parameters, 1)
            ]
            path = root / f"{name.replace(' ', '_')}-{dtype}.yml"
            path.write_text(yaml.safe_dump(document | base | {"models": models}))
            theirs, ours = root / f"{path.stem}-mergekit", root / f"{path.stem}-ours"
            jobs.append((str(path), str(theirs)))
            recipe = read_recipe(path)
            found[name, dtype] = (export(recipe, *open_recipe(recipe), ours), theirs, recipe)
            if dtype == "float32":
                written = root / f"{path.stem}-written.yml"
                written.write_text(recipe_yaml(recipe))
                jobs.append((str(written), str(root / f"{path.stem}-again")))
    run_mergekit(jobs, root)
    return found


def tensors(folder):
    return {
        name: value
        for file in folder.glob("*.safetensors")
        for name, value in load_file(file).items()
    }


def exact(recipe, name):
    """The formula in float64, from the stored weights, ω resolved at this tensor."""
    from merging.engine.tasks import tasks

    base, vectors = open_recipe(recipe)
    task = next(task for task in tasks(recipe, base, vectors) if task.name == name)
    arguments = dict(task.arguments)
    values = [vectors[vector].tuned[name].double() for vector in task.vectors]
    if recipe.method == "linear":
        total = sum(omega * value for omega, value in zip(task.omegas, values, strict=True))
        return total / sum(task.omegas) if arguments["normalize"] else total
    start = base[name].double()
    change = sum(omega * (value - start) for omega, value in zip(task.omegas, values, strict=True))
    return start + arguments["lambda_"] * change


@pytest.mark.parametrize("case", CASES)
def test_the_same_file_gives_the_same_tensors(case, ran):
    folder, theirs, recipe = ran[case]
    ours, wanted = tensors(folder), tensors(theirs)
    assert ours.keys() == wanted.keys()
    stored = CASES[case][0]
    for name, value in wanted.items():
        assert (ours[name].dtype, ours[name].shape) == (value.dtype, value.shape), name
        if value.dtype in (torch.float32, torch.float64):
            # Where the sum nearly cancels, relative means relative to what was added up, about 1 here.
            torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=1e-6)
        else:
            # Rounded once, ours is within half an ulp of the float64 result (and a trifle: of float32, or a subnormal).
            eps = torch.finfo(value.dtype).eps
            result = exact(recipe, name)
            error = (ours[name].double() - result).abs()
            assert (error <= 0.5 * eps * result.abs() + 1e-6).all(), (name, stored)


@pytest.mark.parametrize(
    "case", ["sum bfloat16", "sum float16", "linear bfloat16", "linear float16"]
)
def test_in_half_precision_ours_is_no_farther_from_the_float64_result(case, ran):
    folder, theirs, recipe = ran[case]
    ours, wanted = tensors(folder), tensors(theirs)
    errors = torch.zeros(2, dtype=torch.float64)
    for name in wanted:
        result = exact(recipe, name)
        errors += torch.stack(
            [(side[name].double() - result).square().sum() for side in (ours, wanted)]
        )
    own, others = errors.sqrt().tolist()
    print(f"{case}: RMS error to float64: ours {own:.6f}, mergekit {others:.6f}")
    if case.startswith("sum"):  # mergekit subtracts, multiplies and adds in the storage dtype
        assert own < 0.95 * others  # measured: 0.917 in bfloat16, 0.932 in float16
    else:
        assert own <= others * 1.0001


@pytest.mark.parametrize("name", METHODS)
def test_every_deterministic_method_gives_mergekits_numbers(name, ran):
    folder, theirs, _ = ran[name, "float32"]
    ours, wanted = tensors(folder), tensors(theirs)
    assert ours.keys() == wanted.keys()
    for tensor, value in wanted.items():
        # relative to the largest entry, about 3: where terms cancel, an entry's own size says nothing of its rounding
        torch.testing.assert_close(
            ours[tensor], value, rtol=0, atol=1e-6 * float(value.abs().max()), msg=tensor
        )


@pytest.mark.parametrize("name", METHODS)
def test_what_this_project_writes_mergekit_reads_as_the_same_recipe(name, ran):
    _, theirs, _ = ran[name, "float32"]
    wanted, again = (
        tensors(theirs),
        tensors(theirs.with_name(theirs.name.replace("-mergekit", "-again"))),
    )
    assert wanted.keys() == again.keys()
    for tensor, value in wanted.items():
        torch.testing.assert_close(
            again[tensor], value, rtol=0, atol=1e-6 * float(value.abs().max()), msg=tensor
        )


@pytest.mark.parametrize("name", HALF)
def test_in_bfloat16_every_method_is_no_farther_from_the_float64_result(name, ran):
    """The float64 result is the same recipe on the same stored values, widened first."""
    folder, theirs, recipe = ran[name, "bfloat16"]
    ours, wanted = tensors(folder), tensors(theirs)
    result = widened(recipe)
    errors = torch.zeros(2, dtype=torch.float64)
    for tensor in wanted:
        assert ours[tensor].dtype == torch.bfloat16
        theirs_stored = wanted[tensor].to(
            torch.bfloat16
        )  # ramplus_tl's file is float32 there, whatever its config says
        errors += torch.stack(
            [
                (one.double() - result[tensor]).square().sum()
                for one in (ours[tensor], theirs_stored)
            ]
        )
    own, others = errors.sqrt().tolist()
    print(f"{name}: RMS error to float64: ours {own:.6f}, mergekit {others:.6f}")
    assert own <= others * 1.0001


def widened(recipe):
    """The merge of the stored values as float64."""
    from merging import DistributionVector, in_memory
    from merging.engine.loop import merge

    base, vectors = open_recipe(recipe)
    wide = {name: value.double() for name, value in in_memory(base).items()}
    deltas = {
        name: DistributionVector(
            name, wide, {key: vector.tuned[key].double() for key in vector.tuned}
        )
        for name, vector in vectors.items()
    }
    return dict(merge(recipe, wide, deltas))
