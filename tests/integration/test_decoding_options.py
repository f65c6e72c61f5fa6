"""Every way of decoding, through real gRPC, on the shipped model."""

from __future__ import annotations

import itertools

import pytest
from running import RunningServer

import dragoman
from dragoman import Beam, Client, Decoding, InvalidRequestError, Priority, Sampling

SENTENCES = [
    "My brother bought three books yesterday.",
    "The weather is nice today.",
    "Where is the nearest station?",
]
FRESH = Decoding(bypass_cache=True)


@pytest.fixture
def client(server: RunningServer) -> Client:
    return Client(server.target)


def ask(client: Client, decoding: Decoding, *texts: str) -> list[dragoman.Translation]:
    return client.translate(list(texts), target_language="zh-TW", decoding=decoding)


def test_a_beam_gives_its_best_and_as_many_more_as_asked(client: Client) -> None:
    decoding = Decoding(strategy=Beam(size=4, candidates=3), include_scores=True)
    for found in ask(client, decoding, *SENTENCES):
        (sentence,) = found.sentences
        assert len(sentence.candidates) == 3
        assert sentence.candidates[0].text == found.text
        assert len({candidate.text for candidate in sentence.candidates}) > 1
        scores = [candidate.score for candidate in sentence.candidates]
        assert scores == sorted(scores, reverse=True)
        best = sentence.candidates[0].log_probability
        assert sum(token.log_probability for token in sentence.tokens) == pytest.approx(best, 1e-3)


def test_a_beam_is_the_same_alone_and_in_a_crowd(client: Client) -> None:
    decoding = Decoding(strategy=Beam(size=4))
    alone = [ask(client, decoding, text)[0].text for text in SENTENCES]
    crowd = ask(client, decoding, *SENTENCES, *SENTENCES, *SENTENCES)
    assert [found.text for found in crowd] == alone * 3


def test_a_beam_likes_what_it_finds_at_least_as_much_as_greedy(client: Client) -> None:
    scored = Decoding(include_scores=True, bypass_cache=True)
    beamed = Decoding(strategy=Beam(size=8, length_penalty=0.0), include_scores=True)
    greedy = sum(found.sentences[0].log_probability for found in ask(client, scored, *SENTENCES))
    beam = sum(found.sentences[0].log_probability for found in ask(client, beamed, *SENTENCES))
    assert beam >= greedy - 1e-4


@pytest.mark.parametrize(
    ("decoding", "field"),
    [
        (Decoding(strategy=Beam(size=17)), "beam_size"),
        (Decoding(strategy=Beam(size=0)), "beam_size"),
        (Decoding(strategy=Beam(size=2, candidates=3)), "candidate_count"),
        (Decoding(strategy=Beam(length_penalty=-1.0)), "length_penalty"),
        (Decoding(repetition_penalty=0.5), "repetition_penalty"),
        (Decoding(no_repeat_ngram_size=-1), "no_repeat_ngram_size"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    client: Client, decoding: Decoding, field: str
) -> None:
    with pytest.raises(InvalidRequestError, match=field):
        ask(client, decoding, "Hello.")


def test_a_stream_takes_no_beam(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match="beam"):
        list(
            client.translate_stream(
                "Hello.", target_language="zh-TW", decoding=Decoding(strategy=Beam())
            )
        )


def test_attention_has_a_row_a_step_and_a_weight_a_source_token(client: Client) -> None:
    decoding = Decoding(include_attention=True, include_scores=True)
    (found,) = ask(client, decoding, "I love cats.")
    (sentence,) = found.sentences
    assert sentence.source_pieces[0].strip("▁") == "I"
    assert len(sentence.source_pieces) == found.source_tokens + 1  # and the end
    assert len(sentence.attention) == len(sentence.tokens)
    for row in sentence.attention:
        assert len(row) == len(sentence.source_pieces)
        assert sum(row) == pytest.approx(1.0, abs=1e-4)
    cats = [piece.strip("▁") for piece in sentence.source_pieces].index("cats")
    cat = [token.piece for token in sentence.tokens].index("貓")
    assert max(range(len(row)), key=lambda place: sentence.attention[cat][place]) == cats


def test_attention_costs_those_nothing_who_did_not_ask(client: Client) -> None:
    (found,) = ask(client, FRESH, "I love cats.")
    assert found.sentences == ()


def test_no_ngram_comes_twice_if_none_may(client: Client) -> None:
    text = "no no no no no no no no no no no no"
    decoding = Decoding(no_repeat_ngram_size=2, include_scores=True, bypass_cache=True)
    (found,) = ask(client, decoding, text)
    pieces = [token.piece for token in found.sentences[0].tokens]
    pairs = list(itertools.pairwise(pieces))
    assert len(set(pairs)) == len(pairs)


def test_a_seed_draws_the_same_in_any_company(client: Client) -> None:
    decoding = Decoding(strategy=Sampling(temperature=1.3, seed=11), bypass_cache=True)
    alone = ask(client, decoding, SENTENCES[0])[0].text
    crowd = ask(client, decoding, *([SENTENCES[0]] * 20))
    assert {found.text for found in crowd} == {alone}
    drawn = Decoding(strategy=Sampling(temperature=1.3))
    assert len({found.text for found in ask(client, drawn, *([SENTENCES[0]] * 20))}) > 5


def test_repeated_sentences_say_that_they_were_not_decoded_again(client: Client) -> None:
    text = "The library opens at nine in the morning."
    first, *others = ask(client, Decoding(), *([text] * 5))
    assert [found.cached_sentences for found in others] == [1] * 4
    assert {found.text for found in others} == {first.text}
    again = ask(client, FRESH, text)[0]
    assert (again.cached_sentences, again.text) == (0, first.text)


@pytest.mark.parametrize("priority", list(Priority))
def test_every_priority_is_served(client: Client, priority: Priority) -> None:
    decoding = Decoding(priority=priority, bypass_cache=True)
    assert ask(client, decoding, "I love you.")[0].text == "我愛你。"
