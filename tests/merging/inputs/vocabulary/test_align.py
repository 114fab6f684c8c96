"""Checkpoints of other vocabularies: which rows are merged, by hand with small whole numbers, and with a real Llama."""

import json
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from merging import (
    Checkpoint,
    DistributionVector,
    MismatchError,
    Recipe,
    RecipeError,
    export,
    merge,
    open_recipe,
    verify,
)
from merging.engine.loop import tensor
from merging.engine.tasks import tasks
from merging.inputs.vocabulary.align import arrange
from merging.inputs.vocabulary.aligned import Arranged, Fitted, Grown, Layout
from merging.inputs.vocabulary.tokens import difference, token_tables
from merging.recipe import parse_recipe, read_recipe, recipe_yaml

WIDTH = 3
EMBED, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def table(rows, offset=0.0, dtype=torch.float32):
    """Row i is 10·i + 1, 2, 3, all plus an offset: every row and column can be told apart."""
    return (10.0 * torch.arange(rows)[:, None] + torch.arange(1.0, WIDTH + 1) + offset).to(dtype)


def write_tokens(folder, vocabulary, added=(), **more):
    """tokenizer.json; added tokens are given as (token, id)."""
    entries = [{"id": number, "content": token, "special": False} for token, number in added]
    document = {"added_tokens": entries, "model": {"vocab": vocabulary, **more}}
    (folder / "tokenizer.json").write_text(json.dumps(document))


@pytest.fixture
def make(tmp_path, write):
    """Write a model of one embedding, one head and one norm."""

    def model(
        name,
        tokens,
        rows,
        offset=0.0,
        added=(),
        *,
        tied=False,
        dtype=torch.float32,
        head=None,
        **config,
    ):
        tensors = {EMBED: table(rows, offset, dtype), NORM: torch.ones(WIDTH, dtype=dtype) + offset}
        if not tied:
            tensors[HEAD] = table(rows, 500 + 2 * offset if head is None else head, dtype)
        folder = write(
            tmp_path / name, tensors, {"vocab_size": rows, "model_type": "llama"} | config
        )
        if tokens is not None:
            write_tokens(folder, {token: number for number, token in enumerate(tokens)}, added)
        return folder

    return model


def recipe_of(tmp_path, names, vocabulary, omega=1.0, **more):
    folders = {name: str(tmp_path / name) for name in names}
    return Recipe.compose(
        str(tmp_path / "base"),
        folders,
        dict.fromkeys(names, omega),
        vocabulary=vocabulary,
        allow_unrelated=True,
        **more,
    )


def merged(tmp_path, names, vocabulary, omega=1.0, **more):
    recipe = recipe_of(tmp_path, names, vocabulary, omega, **more)
    return dict(merge(recipe, *open_recipe(recipe)))


class TestLayout:
    def test_rows_that_follow_each_other_are_one_run(self):
        layout = Layout.of(np.array([0, 0, 1, 1, 1, 0]), np.array([0, 1, 7, 8, 2, 5]))
        assert [part.tolist() for part in layout] == [[0, 2, 4, 5, 6], [0, 1, 1, 0], [0, 7, 2, 5]]
        assert layout.rows == 6

    @pytest.mark.parametrize("step", [1, 2, 5, 7, 100])
    def test_any_piece_of_a_view_is_the_piece_of_its_rows(self, make, step):
        base, other = Checkpoint(make("base", "abcde", 5)), Checkpoint(make("x", "abcde", 7, 0.5))
        whose, row = np.array([0, 1, 1, 0, 1, 1, 0]), np.array([4, 0, 1, 3, 6, 2, 0])
        view = Arranged(
            base, Layout.of(whose, row), {EMBED: (torch.float32, [(base, EMBED), (other, EMBED)])}
        )
        wanted = torch.stack(
            [(base, other)[who][EMBED][at] for who, at in zip(whose, row, strict=True)]
        )
        assert view.info(EMBED).shape == (7, WIDTH) and view.info(EMBED).nbytes == 7 * WIDTH * 4
        assert (
            torch.equal(view[EMBED], wanted)
            and torch.equal(view[NORM], base[NORM])
            and list(view) == list(base)
        )
        pieces = [view.block(EMBED, at, min(at + step, 21)) for at in range(0, 21, step)]
        assert torch.equal(torch.cat(pieces), wanted.flatten())
        with ExitStack() as files:
            assert view.in_file(EMBED, 0, 3, files) is None
            assert view.in_file(NORM, 0, 3, files).offset == base.in_file(NORM, 0, 3, files).offset

    def test_the_identity_is_that_of_files_and_order(self, make):
        base, other = Checkpoint(make("base", "abcde", 5)), Checkpoint(make("x", "abcde", 5, 0.5))
        assert base.identity  # known before the views are made, which must not take it over

        def view(row, source):
            layout = Layout.of(np.zeros(5, np.int64), np.array(row))
            return Arranged(base, layout, {EMBED: (torch.float32, [(source, EMBED)])})

        same = [view([0, 1, 2, 3, 4], base) for _ in range(2)]
        others = [view([0, 1, 2, 4, 3], base), view([0, 1, 2, 3, 4], other), base]
        assert same[0].identity == same[1].identity and same[0].digest == base.digest
        assert len({same[0].identity, *(one.identity for one in others)}) == 4


class TestTables:
    def test_they_are_the_tensors_with_a_row_for_each_token(self, make):
        assert token_tables(Checkpoint(make("base", None, 5))) == (5, (HEAD, EMBED))

    def test_the_configuration_decides_where_a_matrix_agrees(self, tmp_path, write):
        tensors = {
            "transformer.wte.weight": torch.ones(5, 3),
            "transformer.wpe.weight": torch.ones(11, 3),
        }
        tensors |= {
            "shared.weight": torch.ones(5, 3),
            "lm_head.bias": torch.ones(5),
            "scale": torch.tensor(1.0),
        }
        tensors |= {
            "norm.weight": torch.ones(5),
            "h.0.mlp.weight": torch.ones(5, 3),
            "ids": torch.ones(5, 3).long(),
        }
        found = ("lm_head.bias", "shared.weight", "transformer.wte.weight")
        nested = {"text_config": {"vocab_size": 5}}
        for number, config in enumerate(({"vocab_size": 5}, nested, {"vocab_size": 7}, {})):
            assert token_tables(Checkpoint(write(tmp_path / str(number), tensors, config))) == (
                5,
                found,
            )

    def test_the_names_of_another_model_come_first(self, tmp_path, write):
        tensors = {"wte.weight": torch.ones(5, 3), "embed.weight": torch.ones(11, 3)}
        weights = Checkpoint(write(tmp_path / "m", tensors, {}))
        assert token_tables(weights) == (11, ("embed.weight",))
        assert token_tables(weights, ("lm_head.weight", "wte.weight")) == (5, ("wte.weight",))

    def test_there_may_be_none(self, tmp_path, write):
        assert token_tables(
            Checkpoint(write(tmp_path / "m", {"w": torch.ones(3, 2)}, {"vocab_size": 5}))
        ) == (0, ())


def test_a_difference_by_hand(make):
    base = Checkpoint(make("base", "abcd", 5))
    tuned = Checkpoint(make("x", "acbe", 7, added=[("<z>", 6), ("<y>", 5)]))
    found = difference(base, tuned)
    assert (
        found[:5]
        == ((5, 7), ((HEAD, EMBED), (HEAD, EMBED)), ("b", "c"), ("e", "<y>", "<z>"), ("d",))
        and found.matters
        and not found.missing
    )
    same = difference(base, base)
    assert same[0] == (5, 5) and same[2:5] == ((), (), ()) and not same.matters
    unknown = difference(base, Checkpoint(make("y", None, 5)))
    assert not unknown.matters and unknown.missing.endswith("y")
    assert (
        difference(Checkpoint(make("z", None, 5)), Checkpoint(make("v", None, 5))).missing == "both"
    )


class TestRefuse:
    def test_it_is_the_default_and_names_both_choices(self, tmp_path, make):
        make("base", "abcd", 5)
        make("x", "abcd", 7, 1.0, [("<y>", 5), ("<z>", 6)])
        make("w", "abcd", 5, 1.0)
        make("v", "abcd", 6, 1.0, [("<y>", 5)])
        recipe = recipe_of(tmp_path, ["x", "w", "v"], "refuse")
        assert recipe == replace(recipe, vocabulary="refuse") and "vocabulary" not in recipe_yaml(
            recipe
        )
        with pytest.raises(MismatchError) as caught:
            open_recipe(recipe)
        one, two = str(caught.value).splitlines()  # all of them, and only those
        assert one == (
            f"x ({tmp_path}/x) has another vocabulary: its embeddings have 7 rows, the base's 5; its tokenizer adds 2 "
            "tokens (<y>, <z>). Set dem.vocabulary: base in the recipe to keep the base's embeddings and head. Or set "
            "dem.vocabulary: union; then rows of shared tokens are merged, and added tokens are kept with their rows."
        )
        assert two.startswith(
            f"v ({tmp_path}/v) has another vocabulary: its embeddings have 6 rows"
        )

    def test_a_union_that_cannot_be_is_not_offered(self, tmp_path, make):
        make("base", "abcd", 5)
        make("x", None, 7)
        with pytest.raises(
            MismatchError,
            match=r"union is not possible here: the tokens of its rows are unknown, because .*x has no",
        ):
            open_recipe(recipe_of(tmp_path, ["x"], "refuse"))

    def test_the_recipe_takes_three_words(self, tmp_path):
        with pytest.raises(RecipeError, match="dem.vocabulary is 'unoin'; did you mean 'union'?"):
            recipe_of(tmp_path, ["x"], "unoin")
        found = {recipe_of(tmp_path, ["x"], word).digest for word in ("refuse", "base", "union")}
        assert len(found) == 3
        again = recipe_of(tmp_path, ["x"], "union")
        assert (
            "vocabulary: union" in recipe_yaml(again) and parse_recipe(recipe_yaml(again)) == again
        )


class TestBase:
    def test_embeddings_and_head_are_the_bases_and_all_else_is_merged(self, tmp_path, make):
        make("base", "abcd", 5)
        make("x", "abcd", 7, 1.0, [("<y>", 5)])
        make("same", "abcd", 5, 0.5)
        result = merged(tmp_path, ["x"], "base")
        assert torch.equal(result[EMBED], table(5)) and torch.equal(result[HEAD], table(5, 500))
        assert result[NORM].tolist() == [2.0, 2.0, 2.0]
        both = merged(
            tmp_path, ["x", "same"], "base"
        )  # of which only `same` moves the rows, by 0.5
        assert torch.equal(both[EMBED], table(5, 0.5)) and both[NORM].tolist() == [2.5, 2.5, 2.5]

    def test_moved_ids_count_as_another_vocabulary_lacking_tokens_do_not(self, tmp_path, make):
        make("base", "abcd", 5)
        make("moved", "abdc", 5, 1.0)
        make("lacks", "abc", 5, 1.0)
        assert torch.equal(merged(tmp_path, ["moved"], "base")[EMBED], table(5))
        assert torch.equal(merged(tmp_path, ["lacks"], "base")[EMBED], table(5, 1.0))

    def test_a_head_that_is_tied_on_one_side_only_is_the_bases_too(self, tmp_path, make):
        make("base", "abcd", 5)
        make("x", "abcd", 7, 1.0, tied=True)
        assert torch.equal(merged(tmp_path, ["x"], "base")[HEAD], table(5, 500))
        assert merged(tmp_path, ["x"], "base")[NORM].tolist() == [2.0, 2.0, 2.0]

    def test_a_head_that_only_the_checkpoint_has_is_left_out(self, tmp_path, make):
        make("base", "abcd", 5, tied=True)
        make("x", "abcd", 7, 1.0)
        result = merged(tmp_path, ["x"], "base")
        assert list(result) == [EMBED, NORM] and torch.equal(result[EMBED], table(5))

    def test_wider_dtypes_leave_the_base_to_the_bit(self, tmp_path, make, bits):
        make("base", "abcd", 5, 0.3, dtype=torch.bfloat16)
        make("x", "abcd", 7, 1.0)
        assert bits(merged(tmp_path, ["x"], "base")[EMBED], table(5, 0.3, torch.bfloat16))

    def test_the_note_says_it(self, tmp_path, make):
        make("base", "abcd", 5)
        make("x", "abcd", 7)
        base, vectors = open_recipe(recipe_of(tmp_path, ["x"], "base"))
        assert type(base) is Checkpoint and isinstance(vectors["x"].tuned, Arranged)
        assert vectors["x"].tuned.note == (
            f"its vocabulary is not the base's, so it does not change {HEAD}, {EMBED}: all rows there are the base's."
        )

    def test_without_tables_nothing_is_arranged(self, tmp_path, write):
        folders = [write(tmp_path / name, {"w": torch.ones(3, 2)}, {}) for name in ("base", "x")]
        write_tokens(folders[0], {"a": 0, "b": 1})
        write_tokens(folders[1], {"a": 1, "b": 0})
        assert arrange(Checkpoint(folders[0]), {"x": folders[1]}, "base").tuned == {}


class TestUnion:
    def test_appended_tokens_by_hand(self, tmp_path, make):
        make("base", "abcd", 4)
        make("x", "abcd", 6, 1.0, [("<y>", 4), ("<z>", 5)])
        result = merged(tmp_path, ["x"], "union", 0.5)
        assert result[EMBED].tolist() == [
            [1.5, 2.5, 3.5],  # shared: Θ + 0.5·1
            [11.5, 12.5, 13.5],
            [21.5, 22.5, 23.5],
            [31.5, 32.5, 33.5],
            [42.0, 43.0, 44.0],  # <y>, x's row 4 as it is, whatever ω
            [52.0, 53.0, 54.0],
        ]
        assert result[HEAD][3].tolist() == [532.0, 533.0, 534.0] and result[HEAD][4].tolist() == [
            543.0,
            544.0,
            545.0,
        ]
        assert result[NORM].tolist() == [1.5, 1.5, 1.5]

    def test_every_row_by_hand_where_ids_moved(self, tmp_path, make):
        """Θ rows: a b c d and one that no token has. x swaps b and c, lacks d, adds <y>; z adds <w>, then <y> again."""
        make("base", "abcd", 5)
        make("x", "acb", 5, 1.0, [("<y>", 3)])
        make("z", "abcd", 7, 2.0, [("<w>", 4), ("<y>", 5)])
        recipe = recipe_of(tmp_path, ["x", "z"], "union")
        base, vectors = open_recipe(recipe)
        assert [entry["content"] for entry in base.entries] == ["<y>", "<w>"] and list(
            base.new
        ) == [4, 5]
        result = dict(merge(recipe, base, vectors))
        assert result[EMBED][:, 0].tolist() == [
            1 + 1 + 2,  # a: Θ + Δx + Δz
            11 + (21 + 1 - 11) + 2,  # b is x's row 2
            21 + (11 + 1 - 21) + 2,  # c is x's row 1
            31 + 2,  # d: x lacks it
            31 + 1,  # <y>: x's row 3, in the row that the base had to spare
            41 + 2,  # <w>: z's row 4
        ]
        assert vectors["x"].tuned.note == (
            "rows of the 3 tokens that it shares with the base are merged; 2 of them have other ids there; 1 tokens that "
            "it lacks keep the base's rows."
        )
        assert vectors["z"].tuned.note == (
            "rows of the 4 tokens that it shares with the base are merged; 1 that it added (<y>) have the rows of x, not "
            "its own."
        )
        assert base.note == (
            "2 tokens are added to its tokenizer (<y>, <w>), ids 4 to 5; each has the row of the checkpoint that added it, "
            "whatever ω is; the embeddings grow from 5 to 6 rows."
        )

    def test_a_checkpoint_with_the_bases_vocabulary_keeps_all_its_rows_and_gets_the_new(
        self, tmp_path, make
    ):
        make("base", "abc", 5)
        make("x", "abc", 5, 1.0, [("<y>", 3)])
        make("same", "abc", 5, 0.5)
        recipe = recipe_of(tmp_path, ["same", "x"], "union")
        base, vectors = open_recipe(recipe)
        assert "the base has unused rows for them" in base.note and vectors["same"].tuned.note == ""
        # <y> is row 3, x's; row 4 has no token, so that only `same`, whose rows are the base's, moves it
        assert dict(merge(recipe, base, vectors))[EMBED][:, 0].tolist() == [
            2.5,
            12.5,
            22.5,
            32.0,
            41.5,
        ]

    def test_tokens_that_only_the_base_has_need_no_growth(self, tmp_path, make):
        make("base", "abcd", 5)
        make("x", "ab", 3, 1.0)
        base, vectors = open_recipe(recipe_of(tmp_path, ["x"], "union"))
        assert type(base) is Checkpoint
        assert vectors["x"][EMBED][:, 0].tolist() == [1, 1, 0, 0, 0]

    def test_rows_of_tokens_that_a_checkpoint_lacks_are_the_bases_though_it_has_such_rows(
        self, tmp_path, make
    ):
        make("base", "abcd", 5)
        make("x", "abc", 5, 1.0)
        _, vectors = open_recipe(recipe_of(tmp_path, ["x"], "union"))
        assert vectors["x"][EMBED][:, 0].tolist() == [1, 1, 1, 0, 0]

    def test_the_same_vocabulary_changes_nothing(self, tmp_path, make):
        make("base", "abcd", 5)
        make("x", "abcd", 5, 1.0)
        base, vectors = open_recipe(recipe_of(tmp_path, ["x"], "union"))
        assert type(base) is Checkpoint and type(vectors["x"].tuned) is Checkpoint

    def test_tokens_without_a_row_are_left_out_and_said(self, tmp_path, make):
        make("base", "abc", 3)
        make("x", "abc", 4, 1.0, [("<y>", 3), ("<z>", 4)])
        base, vectors = open_recipe(recipe_of(tmp_path, ["x"], "union"))
        assert base.info(EMBED).shape == (4, WIDTH)
        assert "1 that it added (<z>) have no row and are left out" in vectors["x"].tuned.note

    def test_a_shared_token_without_a_row_there_is_the_bases(self, tmp_path, make):
        make("base", "abcd", 5)
        make("x", "abcd", 3, 1.0)
        assert merged(tmp_path, ["x"], "union")[EMBED][:, 0].tolist() == [2, 12, 22, 31, 41]

    def test_a_tied_head_follows_its_embeddings(self, tmp_path, make):
        make("base", "abcd", 4, tied=True)
        make(
            "x", "abcd", 5, 1.0, [("<y>", 4)], head=1.0
        )  # stored apart, with the values of its embeddings
        result = merged(tmp_path, ["x"], "union")
        assert list(result) == [EMBED, NORM] and result[EMBED][:, 0].tolist() == [2, 12, 22, 32, 42]

    def test_a_base_that_stores_its_tied_head(self, tmp_path, make):
        make("base", "abcd", 4, head=0.0)
        make("x", "abcd", 5, 1.0, [("<y>", 4)], tied=True)
        result = merged(tmp_path, ["x"], "union")
        assert torch.equal(result[HEAD], result[EMBED]) and result[HEAD][:, 0].tolist() == [
            2,
            12,
            22,
            32,
            42,
        ]

    def test_rows_are_exact_across_dtypes(self, tmp_path, make, bits):
        make("base", "abcd", 4, 0.3, dtype=torch.bfloat16)
        make("x", "ab", 5, 1.0, [("<y>", 3)], dtype=torch.float16)
        base, vectors = open_recipe(recipe_of(tmp_path, ["x"], "union"))
        assert vectors["x"].tuned.info(EMBED).dtype == torch.float32
        assert not vectors["x"][EMBED][2:].any()  # c, d and <y>: not even by a rounding
        assert bits(base[EMBED][4], table(5, 1.0, torch.float16)[3].to(torch.bfloat16))

    def test_averages_without_a_base_take_the_first_models_rows(self, tmp_path, make):
        make("one", "abc", 3)
        make("two", "abc", 4, 2.0, [("<y>", 3)])
        text = (
            f"merge_method: linear\nmodels: [{{model: {tmp_path}/one, parameters: {{weight: 1}}}}, "
        )
        text += f"{{model: {tmp_path}/two, parameters: {{weight: 1}}}}]\ndem: {{vocabulary: union}}"
        recipe = parse_recipe(text)
        result = dict(merge(recipe, *open_recipe(recipe)))
        assert result[EMBED][:, 0].tolist() == [2, 12, 22, 33]

    @pytest.mark.parametrize("size", [1, 2, 5])
    def test_blocks_of_any_size_are_the_same(self, tmp_path, make, pieces, size):
        make("base", "abcd", 5)
        make("x", "acb", 6, 1.0, [("<y>", 3), ("<z>", 5)])
        whole = merged(tmp_path, ["x"], "union", 0.5)
        pieces(size)
        again = merged(tmp_path, ["x"], "union", 0.5)
        assert all(torch.equal(whole[name], again[name]) for name in whole)

    @pytest.mark.parametrize(
        ("base", "other", "message"),
        [
            (
                ("abc", 3),
                (None, 4),
                r"x: the tokens of its rows are unknown, because .*x has no tokenizer.json",
            ),
            ((None, 3), ("abc", 4), r"because .*base has no tokenizer.json"),
            ((None, 3), (None, 4), "because base and checkpoint have no tokenizer.json"),
            (
                ("abc", 3),
                ("abcd", 4),
                r"x: 1 tokens of its own vocabulary \(d\) are neither in the base's",
            ),
            (("abc", 2), ("abc", 4, [("<y>", 3)]), "ids out of order or without a row"),
            (
                ("abc", 9, [("<x>", 3), ("<w>", 7)]),
                ("abc", 9, [("<x>", 3), ("<w>", 7), ("<y>", 8)]),
                None,
            ),
        ],
    )
    def test_what_cannot_be_one_vocabulary_is_refused_by_name(
        self, tmp_path, make, base, other, message
    ):
        def written(name, tokens, rows, added=()):
            make(name, tokens, rows, added=added)

        written("base", *base)
        written("x", *other)
        if message is None:
            assert list(open_recipe(recipe_of(tmp_path, ["x"], "union"))[0].new) == [8]
            return
        with pytest.raises(MismatchError, match=message + ".*Set dem.vocabulary: base"):
            open_recipe(recipe_of(tmp_path, ["x"], "union"))

    def test_ids_with_a_gap_are_refused_for_the_library_would_fill_it(self, tmp_path, make):
        base = make("base", "abc", 9)
        write_tokens(base, {"a": 0, "b": 1, "c": 5})
        make("x", "abc", 9)
        write_tokens(tmp_path / "x", {"a": 0, "b": 1, "c": 5}, [("<y>", 6)])
        with pytest.raises(MismatchError, match="ids out of order"):
            open_recipe(recipe_of(tmp_path, ["x"], "union"))

    def test_another_width_is_another_model(self, tmp_path, make, write):
        make("base", "abc", 3)
        folder = write(
            tmp_path / "x",
            {EMBED: torch.ones(4, 5), HEAD: torch.ones(4, 5), NORM: torch.ones(5)},
            {},
        )
        write_tokens(folder, {"a": 0, "b": 1, "c": 2}, [("<y>", 3)])
        with pytest.raises(
            MismatchError, match="is missing there or has another width: it is not a fine-tune"
        ):
            open_recipe(recipe_of(tmp_path, ["x"], "union"))

    def test_no_embeddings_at_all(self, tmp_path, make, write):
        make("base", "abc", 3)
        write_tokens(write(tmp_path / "x", {NORM: torch.ones(WIDTH)}, {}), {"a": 0, "b": 1, "c": 2})
        with pytest.raises(
            MismatchError, match="it lacks lm_head.weight, model.embed_tokens.weight"
        ):
            open_recipe(recipe_of(tmp_path, ["x"], "union"))


class TestAdapters:
    @pytest.fixture
    def opened(self, tmp_path, make, adapter):
        make("base", "abcd", 6)
        make(
            "x", "abcd", 8, 1.0, [("<y>", 4)]
        )  # in the first of two rows that the base has to spare
        adapter(tmp_path / "lora", Checkpoint(tmp_path / "base"), ["lm_head"])
        recipe = recipe_of(tmp_path, ["x", "lora"], "union")
        return recipe, *open_recipe(recipe)

    def test_an_adapter_of_the_head_moves_the_bases_rows_only(self, tmp_path, opened):
        recipe, base, vectors = opened
        fitted = vectors["lora"]
        assert isinstance(fitted, Fitted) and list(fitted) == [HEAD] and len(fitted) == 1
        assert HEAD in fitted and EMBED not in fitted
        inner = fitted.inner[HEAD]
        assert inner.shape == (6, WIDTH) and fitted[HEAD].shape == base.info(HEAD).shape == (
            6,
            WIDTH,
        )
        wanted = inner.clone()
        wanted[4] = 0
        assert torch.equal(fitted[HEAD], wanted)
        pieces = [fitted.block(HEAD, at, at + 2) for at in range(0, 18, 2)]
        assert torch.equal(torch.cat(pieces), wanted.flatten())
        assert torch.equal(
            dict(merge(recipe, base, vectors))[HEAD][4], Checkpoint(tmp_path / "x")[HEAD][4]
        )

    def test_its_weights_are_base_and_delta(self, opened):
        _, base, vectors = opened
        fitted = vectors["lora"]
        assert torch.equal(fitted.weights_block(HEAD, 0, 18), (base[HEAD] + fitted[HEAD]).flatten())
        assert torch.equal(fitted.weights_block(NORM, 0, 3), base[NORM])
        assert fitted.identity != fitted.inner.identity and fitted.digest == fitted.inner.digest

    def test_new_rows_at_the_end_are_zero(self, tmp_path, make, adapter):
        make("base", "abcd", 4)
        make("x", "abcd", 5, 1.0, [("<y>", 4)])
        adapter(tmp_path / "lora", Checkpoint(tmp_path / "base"), ["lm_head"])
        _, vectors = open_recipe(recipe_of(tmp_path, ["x", "lora"], "union"))
        assert vectors["lora"][HEAD].shape == (5, WIDTH) and not vectors["lora"][HEAD][4].any()

    def test_an_adapter_elsewhere_is_as_it_is(self, tmp_path, opened, write, adapter):
        tensors = {EMBED: table(4), "model.layers.0.mlp.up_proj.weight": torch.ones(5, WIDTH)}
        tokens = {token: number for number, token in enumerate("abcd")}
        write_tokens(write(tmp_path / "b2", tensors, {"vocab_size": 4}), tokens)
        write_tokens(
            write(tmp_path / "x2", tensors | {EMBED: table(5, 1.0)}, {}), tokens, [("<y>", 4)]
        )
        adapter(tmp_path / "l2", tensors, ["model.layers.0.mlp.up_proj"])
        recipe = Recipe.compose(
            tmp_path / "b2",
            {"x": tmp_path / "x2", "l": tmp_path / "l2"},
            {"x": 1.0, "l": 1.0},
            vocabulary="union",
        )
        base, vectors = open_recipe(recipe)
        assert isinstance(base, Grown) and not isinstance(vectors["l"], Fitted)
        assert dict(merge(recipe, base, vectors))[EMBED].shape == (5, WIDTH)

    def test_a_tensor_outside_the_tables_passes_through(self, tmp_path, opened):
        _, base, _ = opened
        both = Fitted(DistributionVector("d", base.own, base.own), base)
        assert not both.block(NORM, 0, 3).any() and both[NORM].shape == (3,)


@pytest.mark.parametrize("how", ["refuse", "union"])
def test_quantised_tables_are_left_for_the_vector_to_refuse(tmp_path, make, write, how):
    make("base", "abc", 3 + (how == "refuse"))
    table8 = table(4).to(torch.float8_e4m3fn)
    tensors = {
        EMBED: table8,
        HEAD: table8.clone() if how == "refuse" else table(4),
        NORM: torch.ones(WIDTH),
    }
    write_tokens(
        write(tmp_path / "x", tensors, {"vocab_size": 4}), {"a": 0, "b": 1, "c": 2}, [("<y>", 3)]
    )
    with pytest.raises(
        MismatchError, match="stored as float8_e4m3fn.*Give the full-precision checkpoint"
    ):
        open_recipe(recipe_of(tmp_path, ["x"], how))


@pytest.mark.parametrize("empty", ["base", "x"])
def test_no_rows_on_one_side_are_no_other_vocabulary(tmp_path, make, write, empty):
    make("x" if empty == "base" else "base", "abc", 3)
    write(tmp_path / empty, {NORM: torch.ones(WIDTH)}, {})
    with pytest.raises(MismatchError, match="does not have the base's tensors"):
        open_recipe(recipe_of(tmp_path, ["x"], "refuse"))


class TestExport:
    def test_side_files_have_the_new_tokens_with_their_ids(self, tmp_path, make):
        base = make("base", "abcd", 4, text_config={"vocab_size": 4}, codec={"vocab_size": 99})
        decoder = {"0": {"content": "a", "special": True}}
        (base / "tokenizer_config.json").write_text(
            json.dumps({"added_tokens_decoder": decoder, "bos_token": "a"})
        )
        (base / "added_tokens.json").write_text(json.dumps({"a": 0}))
        (base / "generation_config.json").write_text('{"bos_token_id":0}')
        make("x", "abcd", 6, 1.0, [("<y>", 4), ("<z>", 5)])
        recipe = recipe_of(tmp_path, ["x"], "union")
        out = export(recipe, *open_recipe(recipe), tmp_path / "out")
        verify(out)
        read = {
            name: json.loads((out / name).read_text()) for name in ("config.json", "tokenizer.json")
        }
        assert (
            read["config.json"]["vocab_size"] == 6
            and read["config.json"]["text_config"]["vocab_size"] == 6
        )
        assert read["config.json"]["codec"]["vocab_size"] == 99
        assert [
            (entry["content"], entry["id"]) for entry in read["tokenizer.json"]["added_tokens"]
        ] == [
            ("<y>", 4),
            ("<z>", 5),
        ]
        assert (
            read["tokenizer.json"]["model"]
            == json.loads((base / "tokenizer.json").read_text())["model"]
        )
        config = json.loads((out / "tokenizer_config.json").read_text())
        assert config["bos_token"] == "a" and config["added_tokens_decoder"] == decoder | {
            "4": {"content": "<y>", "special": False},
            "5": {"content": "<z>", "special": False},
        }
        assert json.loads((out / "added_tokens.json").read_text()) == {"a": 0, "<y>": 4, "<z>": 5}
        assert (out / "generation_config.json").read_bytes() == (
            base / "generation_config.json"
        ).read_bytes()
        assert load_file(out / "model.safetensors")[EMBED].shape == (6, WIDTH)

    def test_a_tokenizer_config_without_a_decoder_stays_as_it_is(self, tmp_path, make):
        base = make("base", "abcd", 4)
        (base / "tokenizer_config.json").write_text('{"bos_token":"a"}')
        make("x", "abcd", 5, 1.0, [("<y>", 4)])
        recipe = recipe_of(tmp_path, ["x"], "union", out_dtype="bfloat16")
        out = export(recipe, *open_recipe(recipe), tmp_path / "out")
        assert json.loads((out / "tokenizer_config.json").read_text()) == {"bos_token": "a"}
        config = json.loads((out / "config.json").read_text())
        assert config["vocab_size"] == 5 and config["dtype"] == "bfloat16"

    def test_a_recipe_that_was_exported_makes_the_same_again(self, tmp_path, make):
        make("base", "abcd", 4)
        make("x", "abcd", 5, 1.0, [("<y>", 4)])
        recipe = recipe_of(tmp_path, ["x"], "union")
        base, vectors = open_recipe(recipe)
        recipe = replace(recipe, inputs={"base": base.digest, "x": vectors["x"].digest})
        first = export(recipe, base, vectors, tmp_path / "first")
        again = read_recipe(first / "recipe.yml")
        second = export(again, *open_recipe(again), tmp_path / "second")
        assert (first / "model.safetensors").read_bytes() == (
            second / "model.safetensors"
        ).read_bytes()


def test_a_task_reads_no_more_than_its_block(tmp_path, make, monkeypatch, pieces):
    """Bounded memory: every read of a view is at most as long as the piece that was asked for."""
    make("base", "abcd", 5)
    make("x", "acb", 6, 1.0, [("<y>", 3), ("<z>", 5)])
    recipe = recipe_of(tmp_path, ["x"], "union", 0.5)
    base, vectors = open_recipe(recipe)
    longest = []
    real = Checkpoint.block
    monkeypatch.setattr(
        Checkpoint,
        "block",
        lambda self, name, a, b: longest.append(b - a) or real(self, name, a, b),
    )
    pieces(4)
    task = next(one for one in tasks(recipe, base, vectors) if one.name == EMBED)
    longest.clear()  # resolving has compared tensors that may be one; see shared_tensors
    assert tensor(task, base, vectors).numel() == task.numel and max(longest) <= 4


class TestARealLlama:
    """Tokenizers and models of transformers: one base, two fine-tunes that added tokens of their own and one of both."""

    WORDS = ("<unk>", "the", "cat", "sat", "on", "mat", "a", "dog", "ran", "far", ".")
    SENTENCE = "the cat sat <|user|> on <|tool|> a mat <|both|> ."

    @pytest.fixture(params=[False, True], ids=["untied", "tied"])
    def folders(self, tmp_path, request):
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

        config = LlamaConfig(
            vocab_size=11, hidden_size=20, intermediate_size=17, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=request.param,
        )  # fmt: skip
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        for name, added in (
            ("base", ()),
            ("chat", ("<|user|>", "<|both|>")),
            ("tools", ("<|tool|>", "<|both|>")),
        ):
            words = Tokenizer(
                models.WordLevel({word: i for i, word in enumerate(self.WORDS)}, unk_token="<unk>")
            )
            words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
            tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
            tokenizer.add_special_tokens(
                {"additional_special_tokens": list(added)}
            ) if added else None
            if added:
                model = LlamaForCausalLM.from_pretrained(tmp_path / "base")
                model.resize_token_embeddings(11 + len(added), mean_resizing=False)
                with torch.no_grad():
                    for value in model.parameters():
                        value += 0.02 * torch.randn_like(value)
            model.save_pretrained(tmp_path / name)
            tokenizer.save_pretrained(tmp_path / name)
        return tmp_path

    def loaded(self, folder):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def exported(self, folders, vocabulary):
        models = {name: folders / name for name in ("chat", "tools")}
        recipe = Recipe.compose(
            folders / "base", models, {"chat": 0.7, "tools": 0.4}, vocabulary=vocabulary
        )
        return self.loaded(export(recipe, *open_recipe(recipe), folders / "out"))

    def rows(self, folder, tokens):
        model, tokenizer = self.loaded(folder)
        ids = tokenizer.convert_tokens_to_ids(tokens)
        return model.get_input_embeddings().weight[ids], model.get_output_embeddings().weight[ids]

    def test_union_loads_with_every_token_and_its_owners_rows(self, folders):
        model, tokenizer = self.exported(folders, "union")
        assert model.config.vocab_size == 14 == len(tokenizer)
        assert tokenizer.convert_tokens_to_ids(["<|user|>", "<|both|>", "<|tool|>"]) == [11, 12, 13]
        ids = tokenizer(self.SENTENCE, return_tensors="pt").input_ids
        assert ids.tolist() == [[1, 2, 3, 11, 4, 13, 6, 5, 12, 10]]
        assert tokenizer.decode(ids[0]) == self.SENTENCE
        for owner, tokens in (("chat", ["<|user|>", "<|both|>"]), ("tools", ["<|tool|>"])):
            ours, theirs = self.rows(folders / "out", tokens), self.rows(folders / owner, tokens)
            assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))

    def test_union_merges_the_shared_rows_by_equation_2(self, folders):
        self.exported(folders, "union")
        shared = [
            self.rows(folders / name, list(self.WORDS)) for name in ("out", "base", "chat", "tools")
        ]
        for out, base, chat, tools in zip(*shared, strict=True):
            wanted = base.double() + 0.7 * (chat - base).double() + 0.4 * (tools - base).double()
            torch.testing.assert_close(out.double(), wanted, rtol=0, atol=1e-7)

    def test_union_generates_on_and_from_added_tokens(self, folders):
        model, tokenizer = self.exported(folders, "union")
        ids = tokenizer("<|user|> the <|tool|>", return_tensors="pt").input_ids
        seen = []
        model.model.layers[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        out = model.generate(
            ids, max_new_tokens=3, do_sample=False, pad_token_id=0, eos_token_id=None
        )
        assert out.shape == (1, 6) and out.max() < 14
        assert torch.equal(seen[0][0, 0], self.rows(folders / "chat", ["<|user|>"])[0][0])
        assert torch.equal(seen[0][0, 2], self.rows(folders / "tools", ["<|tool|>"])[0][0])

    def test_base_keeps_tokenizer_and_rows(self, folders):
        model, tokenizer = self.exported(folders, "base")
        assert len(tokenizer) == 11 == model.config.vocab_size
        ours, base = (
            self.rows(folders / "out", list(self.WORDS)),
            self.rows(folders / "base", list(self.WORDS)),
        )
        assert all(torch.equal(one, other) for one, other in zip(ours, base, strict=True))
        assert not torch.equal(
            model.model.layers[0].mlp.up_proj.weight,
            self.loaded(folders / "base")[0].model.layers[0].mlp.up_proj.weight,
        )
