import functools
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nanochat.chat import (
    MIN_PROMPT,
    AnswerDecoder,
    as_parts,
    check_conversation,
    render_conversation,
    render_prompt,
    visible_text,
)
from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer

@functools.cache
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the answer is twelve, what is three times four. " * 20], 256 + 9 + 20)


def spelled(ids: list[int]) -> str:
    return tokenizer().decode(ids)


def chat(*contents, system=None) -> dict:
    messages = [{"role": "system", "content": system}] if system is not None else []
    for i, content in enumerate(contents):
        messages.append({"role": ("user", "assistant")[i % 2], "content": content})
    return {"messages": messages}


TOOL = [{"type": "text", "text": "Let me see. "}, {"type": "python", "text": "3*4"},
        {"type": "python_output", "text": "12"}, {"type": "text", "text": "It is 12."}]


def test_a_conversation_renders_and_masks_exactly_as_documented():
    ids, mask = render_conversation(tokenizer(), chat("Hi?", TOOL, "Thanks", "Bye"))
    trained = "".join(spelled([i]) if m else "~" * len(spelled([i])) for i, m in zip(ids, mask))
    assert spelled(ids) == (
        "<|bos|><|user_start|>Hi?<|user_end|><|assistant_start|>Let me see. <|python_start|>3*4<|python_end|>"
        "<|output_start|>12<|output_end|>It is 12.<|assistant_end|>"
        "<|user_start|>Thanks<|user_end|><|assistant_start|>Bye<|assistant_end|>")
    assert trained.replace("~", "") == (
        "Let me see. <|python_start|>3*4<|python_end|>It is 12.<|assistant_end|>Bye<|assistant_end|>")


def test_a_system_message_opens_the_first_question():
    ids, mask = render_conversation(tokenizer(), chat("Hi?", "Yo", "And?", "So", system="Be brief."))
    assert spelled(ids).startswith("<|bos|><|user_start|>Be brief.\n\nHi?<|user_end|>")
    assert spelled(ids).count("Be brief.") == 1
    only = render_prompt(tokenizer(), chat(system="Say hello"))
    assert spelled(only) == "<|bos|><|user_start|>Say hello<|user_end|><|assistant_start|>"


def test_a_prompt_is_the_training_text_up_to_the_answer():
    for conversation in (chat("Hi?"), chat("Hi?", "Yo", "And?", system="Be brief."), chat("", "", "")):
        ids, mask = render_conversation(tokenizer(), conversation)
        assert render_prompt(tokenizer(), conversation) == ids
        answered = {"messages": conversation["messages"] + [{"role": "assistant", "content": TOOL}]}
        assert render_prompt(tokenizer(), answered) == ids
        assert render_conversation(tokenizer(), answered)[0][:len(ids)] == ids


@given(st.lists(st.text(max_size=20), min_size=1, max_size=6), st.none() | st.text(max_size=20),
       st.integers(MIN_PROMPT, 80))
def test_a_prompt_too_long_loses_its_oldest_part_and_nothing_else(contents, system, limit):
    if len(contents) % 2 == 0:
        contents.pop()
    whole = render_prompt(tokenizer(), chat(*contents, system=system))
    cut = render_prompt(tokenizer(), chat(*contents, system=system), limit)
    user_end, user_start = tokenizer().special("<|user_end|>"), tokenizer().special("<|user_start|>")
    assert len(cut) <= limit and cut[:2] == whole[:2] == [tokenizer().bos, user_start]
    assert cut[-2:] == whole[-2:] and cut.count(user_end) == cut.count(user_start)
    if len(whole) <= limit:
        assert cut == whole
    question = tokenizer().encode(contents[-1])
    kept = question[max(0, len(question) - (limit - 4)):]
    assert cut[:-2][len(cut) - 2 - len(kept):] == kept


def test_the_system_message_outlives_the_turns_that_are_dropped():
    conversation = chat("old question", "old answer", "new question", system="Be brief.")
    whole = render_prompt(tokenizer(), conversation)
    assert render_prompt(tokenizer(), conversation, len(whole) - 1) == render_prompt(
        tokenizer(), chat("new question", system="Be brief."))


def test_a_conversation_too_long_is_cut_at_its_end():
    ids, mask = render_conversation(tokenizer(), chat("Hi?", TOOL))
    for limit in (1, 5, len(ids) - 1, len(ids), len(ids) + 1):
        assert render_conversation(tokenizer(), chat("Hi?", TOOL), limit) == (ids[:limit], mask[:limit])


@given(st.lists(st.sampled_from(SPECIAL_TOKENS) | st.text(max_size=8), max_size=6).map("".join))
def test_no_text_can_forge_a_marker(text):
    conversation = chat(text, [{"type": k, "text": text} for k in ("text", "python", "python_output")],
                        system=text)
    specials = {tokenizer().special(name) for name in SPECIAL_TOKENS}
    markers = [i for i in render_conversation(tokenizer(), conversation)[0] if i in specials]
    plain = chat("x", [{"type": kind, "text": "x"} for kind in ("text", "python", "python_output")])
    assert markers == [i for i in render_conversation(tokenizer(), plain)[0] if i in specials]


parts = st.lists(st.fixed_dictionaries({"type": st.sampled_from(["text", "python", "python_output"]),
                                        "text": st.text(max_size=12)}), max_size=6)


@given(parts)
def test_decoding_an_answer_gives_back_parts_that_render_to_the_same_text(answer):
    prompt = render_prompt(tokenizer(), chat("Hi?"))
    ids = render_conversation(tokenizer(), chat("Hi?", answer))[0][len(prompt):-1]
    decoder = AnswerDecoder(tokenizer())
    pieces = [piece for i in ids for piece in decoder.push(i)] + decoder.flush()
    assert "".join(text for _, text in pieces) == "".join(part["text"] for part in answer)
    again = render_conversation(tokenizer(), chat("Hi?", decoder.parts))[0]
    assert spelled(again[len(prompt):-1]) == spelled(ids)
    assert visible_text(decoder.parts) == visible_text(answer) == "".join(t for k, t in pieces if k == "text")
    assert all(a["type"] != "text" or b["type"] != "text" for a, b in zip(decoder.parts, decoder.parts[1:]))


@given(st.lists(st.integers(0, tokenizer().vocab_size - 5), max_size=40))
def test_a_streamed_text_is_the_decoded_text_for_any_ids_but_markers_of_the_tool(ids):
    decoder = AnswerDecoder(tokenizer())
    pieces = [piece for i in ids for piece in decoder.push(i)] + decoder.flush()
    assert "".join(text for _, text in pieces) == spelled(ids) == visible_text(decoder.parts)


@given(st.text(max_size=80))
def test_a_stream_of_whole_text_never_shows_a_half_character(text):
    decoder, shown = AnswerDecoder(tokenizer()), ""
    for i in tokenizer().encode(text):
        shown += "".join(piece for _, piece in decoder.push(i))
        assert text.startswith(shown)
    assert shown == text and decoder.flush() == []


def test_a_character_split_over_tokens_is_shown_whole_and_a_broken_one_replaced():
    decoder = AnswerDecoder(tokenizer())
    ids = [single_byte(byte) for byte in "é€😀".encode()]
    pieces = [piece for i in ids for piece in decoder.push(i)]
    assert pieces == [("text", "é"), ("text", "€"), ("text", "😀")]
    assert decoder.push(single_byte(0xF0)) == [] and decoder.flush() == [("text", "\ufffd")]
    assert decoder.push(single_byte(65)) == [("text", "A")]                     # nothing of it is left


def single_byte(byte: int) -> int:
    return next(i for i in range(tokenizer().vocab_size) if tokenizer().decode_bytes([i]) == bytes([byte]))


HI, YO = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize("conversation, says", [
    (None, "an object with a list"), ([HI], "an object with a list"),
    ({"messages": "Hi"}, "an object with a list"),
    ({"messages": []}, "at least one"),
    ({"messages": ["Hi"]}, "message 1 must be an object"),
    ({"messages": [YO]}, "message 1 is from 'assistant', must be from 'system' or 'user'"),
    ({"messages": [HI, HI]}, "message 2 is from 'user', must be from 'assistant'"),
    ({"messages": [SYSTEM, HI, YO, YO]}, "message 4 is from 'assistant', must be from 'user'"),
    ({"messages": [HI, SYSTEM]}, "message 2 is from 'system'"),
    ({"messages": [SYSTEM, SYSTEM]}, "message 2 is from 'system', must be from 'user'"),
    ({"messages": [{"role": ["user"], "content": "Hi"}]}, r"message 1 is from \['user'\]"),
    ({"messages": [{"content": "Hi"}]}, "message 1 is from None"),
    ({"messages": [{"role": "user"}]}, 'message 1: "content" must be a string or a list'),
    ({"messages": [HI, {"role": "assistant", "content": 3}]}, 'message 2: "content" must be a string'),
    ({"messages": [{"role": "user", "content": [{"type": "image", "text": ""}]}]}, "message 1: a part must"),
    ({"messages": [{"role": "user", "content": TOOL}]}, "message 1 is from 'user', who cannot call the tool"),
    ({"messages": [{"role": "system", "content": TOOL}, HI]}, "message 1 is from 'system', who cannot call"),
])
def test_what_is_no_conversation_is_refused_with_a_reason_wherever_it_comes_in(conversation, says):
    with pytest.raises(ValueError, match=says):
        check_conversation(conversation)
    for render in (render_conversation, render_prompt):
        with pytest.raises(ValueError, match=says):
            render(tokenizer(), conversation)


@pytest.mark.parametrize("messages, to_learn, to_answer", [
    ([HI], "the last one, is from 'user'", None), ([SYSTEM], "the last one, is from 'system'", None),
    ([SYSTEM, HI, YO], None, "must be from 'user'"), ([HI, YO, HI], "message 3, the last one", None),
    ([HI, {"role": "assistant", "content": ""}], "says nothing", "must be from 'user'"),
    ([HI, {"role": "assistant", "content": " \n"}], "says nothing", "must be from 'user'"),
    ([HI, {"role": "assistant", "content": []}], "says nothing", "must be from 'user'"),
    ([HI, {"role": "assistant", "content": TOOL[2:3]}], "says nothing", "must be from 'user'"),   # a tool's
    ([HI, {"role": "assistant", "content": TOOL[1:2]}], None, "must be from 'user'"),
    ([HI, YO, HI, {"role": "assistant", "content": ""}], None, "must be from 'user'"),
])
def test_what_is_learned_ends_in_an_answer_and_what_is_answered_does_not(messages, to_learn, to_answer):
    check_conversation({"messages": messages}, answered=None)
    for answered, says in ((True, to_learn), (False, to_answer)):
        if says is None:
            check_conversation({"messages": messages}, answered=answered)
        else:
            with pytest.raises(ValueError, match=says):
                check_conversation({"messages": messages}, answered=answered)


def test_a_string_is_one_part_of_text():
    assert as_parts("Hi") == [{"type": "text", "text": "Hi"}]
