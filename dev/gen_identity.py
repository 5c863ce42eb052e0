"""Conversations in which the model says who it is: a name, a maker, a character. What comes out is a file for
--conversations of scripts.mid_train and scripts.chat_sft, one {"messages": [...]} per line.

    python -m dev.gen_identity --name Ada --out persona.jsonl --character "curious and brief" \\
      --maker "the Lovelace family" --fact "(what do you drink|what is your drink)? I drink tea."
    python -m dev.gen_identity --name Ada --out persona.jsonl --endpoint http://127.0.0.1:8080/v1 --model NAME

Offline it composes what stands in gen_identity.txt: the same flags, the same file. An endpoint is any server
that speaks OpenAI's protocol, asked through the package openai; its key is read from $OPENAI_API_KEY. What it
writes is kept as it comes, and the same command again asks for the rest."""
import argparse
import json
import os
import re
from multiprocessing.pool import ThreadPool
from pathlib import Path
from nanochat.almanac import Scribe, Turn
from nanochat.chat import check_conversation
from nanochat.common import atomic_write, die, new_parser, require_positive

TURNS = {1: 6, 2: 3, 3: 1}                              # questions in a conversation -> how often
AT_ONCE, RETRIES, TIMEOUT = 8, 5, 120.0                 # requests to the endpoint; of each, and seconds a try

def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--name", required=True, help="what the model is called")
    add("--out", type=Path, required=True, metavar="FILE", help="the .jsonl file to write")
    add("--count", type=int, default=10_000, help="conversations (default: %(default)s)")
    add("--maker", default="someone who uses nanochat", help="who made it (default: %(default)s)")
    add("--character", default="friendly and brief", help="as in 'I am ...' (default: %(default)s)")
    add("--fact", action="append", default=[], metavar="TEXT",
        help="what it says of itself: 'I like tea.', or with its question: 'do you like tea? Yes, I do.'")
    add("--endpoint", metavar="URL", help="have a model write them: what stands before /chat/completions")
    add("--model", default="", help="its name there, where the server has several")
    return parser

class Persona(Scribe):
    """The writer who knows who it is, and how that is asked and said: in the text file's ways."""
    def __init__(self, args: argparse.Namespace):
        super().__init__("train", "identity", 0)
        self.pools, self.topics, self.weights = {"fact": []}, {}, {}
        text = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").replace("\n  ", " ")
        for name, forms in re.findall(r"^(\w+): (.*)$", text, re.MULTILINE):
            self.pools[name] = forms.split(" / ")
        for name, weight, asks, says in re.findall(r"^(\w+) (\d+): (.*) -> (.*)$", text, re.MULTILINE):
            self.topics[name], self.weights[name] = (asks.split(" / "), says.split(" / ")), int(weight)
        for question, _, fact in (text.rpartition("?") for text in args.fact):
            self.pools["fact"].append(fact.strip())
            if question.strip():
                self.topics[question], self.weights[question] = ([question], [fact.strip()]), 3
        self.pools["other"] = [name for name in self.pools["other"] if name.lower() != args.name.lower()]
        self.ways = self.pools
        self.people = {"name": args.name, "maker": args.maker, "character": args.character,
                       "Maker": args.maker[:1].upper() + args.maker[1:]}
        self.people["facts"] = self.fill(" ".join(self.pools["fact"]))
        self.pools["fact"] = self.pools["fact"] or ["I am {character}."]

    def fill(self, form: str, **values: str) -> str:
        """With each (a|b) decided as well."""
        try:
            text = super().fill(form, **values)
        except (LookupError, ValueError) as error:
            die(f"{form!r} cannot be filled in: {error!r}", hint="gen_identity.txt says what goes in braces")
        return re.sub(r"\(([^()]*\|[^()]*)\)", lambda found: self.pick(found[1].split("|")), text).strip()

    def typed(self, text: str) -> str:
        """As people type, with other marks, abbreviations and letters swapped."""
        text = super().typed(text + self.pick(["?"] * 9 + [".", "!", "??"]))
        if self.chance(0.15):
            text = re.sub(r"\byou\b", "u", re.sub(r"\byour\b", "ur", text.replace("'", "")))
        at = self.between(1, max(1, len(text) - 3))
        if self.chance(0.06) and text[at:at + 2].isalpha():
            text = text[:at] + text[at:at + 2][::-1] + text[at + 2:]
        return text

    def turn(self, topic: str) -> Turn:
        asks, answers = self.topics[topic]
        return self.typed(self.fill(self.pick(asks))), self.fill(self.pick(answers))

    def conversation(self) -> dict:
        """Questions on one to three topics, now and then after a system message that says who it is."""
        messages = []
        if self.chance(0.06):
            messages.append({"role": "system", "content": self.draw("systems")})
        left = dict(self.weights)
        for _ in range(self.weighted(TURNS)):
            topic = self.weighted(left)
            del left[topic]
            question, answer = self.turn(topic)
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return {"messages": messages}

    def compose(self, count: int) -> list[str]:
        """`count` different lines. Dies where the wordings do not yield as many."""
        lines = dict.fromkeys(json.dumps(self.conversation(), ensure_ascii=False) for _ in range(2 * count))
        if len(lines) < count:
            die(f"--count is {count:,}: the wordings yield {len(lines):,} in {2 * count:,} draws")
        return list(lines)[:count]

    def prompt(self) -> str:
        """Another one for every conversation: the variety comes from here, not from the temperature."""
        first, _ = self.turn(self.weighted(self.weights))
        return self.draw("prompt", first=first, turns=self.weighted(TURNS))

def conversation_in(reply) -> str:
    """The one in a server's reply, as a line, without the talk around it; "" if there is none."""
    try:
        text = reply.choices[0].message.content
        made = json.loads(text[text.index("{"):text.rindex("}") + 1])
        check_conversation(made)
        line = json.dumps({"messages": made["messages"]}, ensure_ascii=False)
        line.encode()                                   # half a character cannot be written
        return line
    except (LookupError, TypeError, AttributeError, RecursionError, ValueError):
        return ""

def collect(client, persona: Persona, args: argparse.Namespace) -> None:
    """Ask for as many conversations as the file lacks, and add each one when it comes."""
    text = args.out.read_text(encoding="utf-8") if args.out.exists() else ""
    kept = dict.fromkeys(text.split("\n")[:-1])         # a last line that was cut off is asked for again
    atomic_write(args.out, "".join(f"{line}\n" for line in kept))
    prompts = [persona.prompt() for _ in range(args.count)][len(kept):]
    def ask(text: str):
        return client.chat.completions.create(model=args.model, messages=[{"role": "user", "content": text}])
    with open(args.out, "a", encoding="utf-8", buffering=1) as out, ThreadPool(AT_ONCE) as pool:
        for done, reply in enumerate(pool.imap_unordered(ask, prompts), 1):     # Ctrl-C awaits no thread
            line = conversation_in(reply)
            if line and line not in kept:
                kept[line] = None
                out.write(line + "\n")
            if done % 20 == 0 or done == len(prompts):
                print(f"{done} requests, {len(kept):,} of {args.count:,} conversations", flush=True)

def main(args: argparse.Namespace) -> None:
    require_positive(args, "count")
    if not args.name.strip():
        die("--name is empty")
    persona = Persona(args)
    if not args.endpoint:
        atomic_write(args.out, "".join(f"{line}\n" for line in persona.compose(args.count)))
        return print(f"{args.out}: {args.count:,} conversations")
    import openai
    client = openai.OpenAI(base_url=args.endpoint, api_key=os.environ.get("OPENAI_API_KEY", "none"),
                           max_retries=RETRIES, timeout=TIMEOUT)
    try:
        collect(client, persona, args)
    except (openai.OpenAIError, json.JSONDecodeError, KeyboardInterrupt) as error:
        die(f"{args.endpoint}: {error!r}", hint="what came is kept, and the same command asks for the rest")

if __name__ == "__main__":
    main(parser().parse_args())
