"""`train.py`: the recommended run in plain PyTorch, transformers and peft, without foretune."""

from __future__ import annotations

import pprint
import textwrap

from foretune.handover.next_run import NextRun

ADAPTER, OUT = "adapter_config.json", "trained"
HEAD, ADAPTER_START = "head_start.safetensors", "adapter_start.safetensors"

_ROWS = '''

def rows(part):
    """The rows of a part, as they were forecast."""
    lines = (HERE / "rows" / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
'''

_CAUSAL = '''

def encoded(row):
    """A prompt as token ids; the answer is read at its last token."""
    found = tokenizer(row["prompt"])
    kept = len(found["input_ids"]) - APPENDED
    item = {name: found[name][:kept] for name in INPUTS}
    return {**item, "position": kept - 1, "labels": LABELS.index(row["label"])}
'''

_MASKED = '''

def encoded(row):
    """A prompt as token ids; the answer is read at its mask."""
    found = tokenizer(row["prompt"])
    position = found["input_ids"].index(tokenizer.mask_token_id)
    item = {name: found[name] for name in INPUTS}
    return {**item, "position": position, "labels": LABELS.index(row["label"])}
'''

_TEXT = '''

def encoded(row):
    """A text, or a pair of texts, as token ids."""
    found = tokenizer(row["text"], row.get("text2"), truncation=True, max_length=LIMIT)
    item = {name: found[name] for name in INPUTS}
    return {**item, "position": len(found["input_ids"]) - 1, "labels": LABELS.index(row["label"])}
'''

_COLLATED = '''

def collated(items):
    """A batch, padded on the right."""
    width = max(len(item["input_ids"]) for item in items)
    batch = {
        name: torch.tensor([item[name] + [PADDING.get(name, 0)] * (width - len(item[name])) for item in items])
        for name in INPUTS
    }
    return {**batch, **{name: torch.tensor([item[name] for item in items]) for name in ("position", "labels")}}
'''

_WORDS = '''

class Classifier(nn.Module):
    """A language model that answers with label words: their logits at one place of the prompt."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, position, **inputs):
        logits = self.model(**inputs).logits
        return logits[torch.arange(len(position), device=logits.device), position][:, ANSWERS]
'''

_HEADED = '''

class Classifier(nn.Module):
    """A transformer body with a linear head on its features."""

    def __init__(self, model):
        super().__init__()
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        start = load_file(HERE / "{file}")
        self.model, self.body = model, [base.get_submodule(BODY)]  # in a list: its weights belong to the model
        self.head = nn.Linear(start["weight"].shape[1], len(LABELS), dtype=start["weight"].dtype)
        self.head.load_state_dict(start){frozen}

    def forward(self, position, **inputs):
        hidden = self.body[0](**inputs)[0]
{pooled}
        return self.head(features.to(self.head.weight.dtype))
'''

_POOLED = {
    "cls": "        features = hidden[:, 0]",
    "last": "        features = hidden[torch.arange(len(position), device=hidden.device), position]",
    "mean": '        mask = inputs["attention_mask"].to(hidden.dtype)[:, :, None]\n'
    "        features = (hidden * mask).sum(1) / mask.sum(1)",
}

_TRAINER = '''

class ClassTrainer(Trainer):
    """A trainer whose loss is the mean cross-entropy of the classes, in nats."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs["labels"]
        logits = model(**{name: value for name, value in inputs.items() if name != "labels"}).float()
        loss = nn.functional.cross_entropy(logits, labels)
        return (loss, {"logits": logits}) if return_outputs else loss


class Best(TrainerCallback):
    """Keeps the weights of the lowest validation loss, and stops when it has not fallen for some evaluations."""

    def __init__(self):
        self.loss, self.weights, self.waited = float("inf"), {}, 0

    def on_evaluate(self, args, state, control, metrics, model, **_):
        loss, forecast = metrics["eval_loss"], PREDICTED.get(state.global_step)
        said = "" if forecast is None else f", forecast {forecast:.4f}"
        print(f"step {state.global_step}: validation loss {loss:.4f}{said}")
        if state.global_step and loss < self.loss:
            self.loss, self.waited = loss, 0
            self.weights = {name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}
        elif state.global_step:
            self.waited += 1
            control.should_training_stop = self.waited >= PATIENCE


def measured(found):
    """Loss and score of all examples of an evaluation."""
    logits, labels = torch.as_tensor(found.predictions), torch.as_tensor(found.label_ids)
    loss = nn.functional.cross_entropy(logits, labels).item()
    return {"loss": loss, METRIC: score(logits.argmax(1), labels)}
'''

_SCORES = {
    "accuracy": '''

def score(predicted, labels):
    """The share of right answers."""
    return (predicted == labels).double().mean().item()
''',
    "f1": '''

def score(predicted, labels):
    """F1 of the second label."""
    hits = ((predicted == 1) & (labels == 1)).sum().item()
    return 2 * hits / max(1, (predicted == 1).sum().item() + (labels == 1).sum().item())
''',
    "matthews": '''

def score(predicted, labels):
    """Matthews' correlation."""
    table = torch.zeros(len(LABELS), len(LABELS), dtype=torch.float64)
    table.index_put_((labels, predicted), torch.ones(len(labels), dtype=torch.float64), accumulate=True)
    n, true, said = table.sum(), table.sum(1), table.sum(0)
    below = ((n**2 - said @ said) * (n**2 - true @ true)).sqrt()
    return ((table.trace() * n - true @ said) / below).item() if below > 0 else 0.0
''',
}

_THRESHOLD = '''

def threshold(difference, labels):
    """The place between two classes that scores best; of equal ones, the middle one."""
    values = difference.unique()
    places = torch.cat([values[:1] - 1, (values[1:] + values[:-1]) / 2, values[-1:] + 1])
    scores = torch.tensor([score((difference > place).long(), labels) for place in places])
    best = (scores == scores.max()).nonzero()[:, 0]
    return places[best[len(best) // 2]]


def differences(part):
    """The second logit less the first, and the labels, of all examples of a part."""
    found = trainer.predict(data[part])
    logits = torch.as_tensor(found.predictions)
    return logits[:, 1] - logits[:, 0], torch.as_tensor(found.label_ids)
'''

_SIGN = """print(f"test {METRIC} {scores['test_' + METRIC]:.4f}, forecast <score>")"""

_PLACED = """place = threshold(*differences("validation"))
difference, labels = differences("test")
scores["threshold"], scores[METRIC] = place.item(), score((difference > place).long(), labels)
print(f"test {METRIC} {scores[METRIC]:.4f} with a threshold set on validation, forecast <score>")"""

_RUN = """

if OUT.exists() and any(OUT.iterdir()):
    sys.exit(f"{{OUT}} is not empty. Name another folder: python {{sys.argv[0]}} NEW")
set_seed(SEED)
tokenizer = AutoTokenizer.from_pretrained(MODEL{revision})
model = {loader}.from_pretrained(MODEL, dtype=torch.{dtype}{loading})
model.config.use_cache = False
model.requires_grad_(False)
{adapted}
classifier = Classifier(model)
classifier.eval()
classifier.train = lambda mode=True: classifier  # dropout stays off, as in the forecast
trained = sum(p.numel() for p in classifier.parameters() if p.requires_grad)
print(f"training {{trained:,}} parameters for at most {{STEPS}} steps")

arguments = TrainingArguments(
    output_dir=str(OUT),
    max_steps=STEPS,
    per_device_train_batch_size={micro},
    gradient_accumulation_steps={accumulated},
    per_device_eval_batch_size={evaluated},
    optim="adamw_torch",
    learning_rate=LEARNING_RATE,
    lr_scheduler_type="{schedule}",
    weight_decay=0.0,
    max_grad_norm=0.0,
    bf16=False,  # precision: {dtype} throughout
    fp16=False,
    eval_strategy="steps",
    eval_steps=EVERY,
    eval_on_start=True,
    logging_steps=EVERY,
    save_strategy="no",  # the best weights are kept in memory
    report_to="none",
    seed=SEED,
    remove_unused_columns=False,
    label_names=["labels"],
    disable_tqdm=True,
    dataloader_pin_memory=torch.cuda.is_available(),
)
data = {{part: [encoded(row) for row in rows(part)] for part in ("train", "validation", "test")}}
best = Best()
trainer = ClassTrainer(
    model=classifier,
    args=arguments,
    data_collator=collated,
    train_dataset=data["train"],
    eval_dataset=data["validation"],
    compute_metrics=measured,
    callbacks=[best],
)
trainer.remove_callback(PrinterCallback)
trainer.train()
classifier.load_state_dict(best.weights, strict=False)
scores = trainer.predict(data["test"]).metrics
print(f"best validation loss {{best.loss:.4f}}")
{tested}
model.save_pretrained(OUT)
tokenizer.save_pretrained(OUT)
{saved}
(OUT / "log.json").write_text(json.dumps({{"log": trainer.state.log_history, "test": scores}}, indent=1))
"""

_ADAPTED = """config = LoraConfig.from_pretrained(HERE){free}
model = get_peft_model(model, config)
for name, drawn in load_file(HERE / "{start}").items():  # the matrices A of the forecast; B is zero
    model.get_base_model().get_submodule(name).lora_A["default"].weight.data.copy_(drawn)"""

_FREE = "\nconfig.task_type = config.modules_to_save = None  # the head is that of Classifier"

_TUNED = """for name, parameter in model.named_parameters():
    parameter.requires_grad_(name in TRAINED)"""


def train_script(run: NextRun, version: str) -> str:
    """The text of `train.py`.

    Args:
        run: the run.
        version: of foretune.
    """
    headed = run.answers is None
    read = _TEXT if headed else _MASKED if run.masked else _CAUSAL
    frozen = "" if run.trains_head else "\n        self.head.requires_grad_(False)"
    headed_class = _HEADED.format(file=HEAD, pooled=_POOLED.get(run.pooling, ""), frozen=frozen)
    classifier = headed_class if headed else _WORDS
    head = (_about(run, version), *_imports(run), "", *_constants(run))
    placed = _THRESHOLD if run.thresholded else ""
    parts = (_ROWS, read, _COLLATED, classifier, _TRAINER, _SCORES[run.metric], placed, _run(run))
    return "\n".join(head) + "\n" + "".join(parts)


def _about(run: NextRun, version: str) -> str:
    needs = ["torch", "transformers", "accelerate", *(["peft"] if run.adapter is not None else [])]
    lines = (
        *textwrap.wrap(f"Train {run.title} of {run.model}, as foretune {version} forecast it.", 110),
        "",
        "Run: python train.py [FOLDER]",
        f"Needs: {', '.join(needs)}.",
    )
    text = "\n".join(lines).replace("\\", "\\\\").replace('"', "'")
    return f'"""{text}\n"""\n'


def _imports(run: NextRun) -> list[str]:
    """What the script imports, and its folders."""
    headed = run.answers is None
    tensors = [*(["load_file"] if headed or run.adapter else []), *(["save_file"] if headed else [])]
    return [
        "from __future__ import annotations",
        "",
        "import json",
        "import sys",
        "from pathlib import Path",
        "",
        "import torch",
        *(["from peft import LoraConfig, get_peft_model"] if run.adapter is not None else []),
        *([f"from safetensors.torch import {', '.join(tensors)}"] if tensors else []),
        "from torch import nn",
        "from transformers import (",
        f"    {run.loader},",
        "    AutoTokenizer,",
        "    PrinterCallback,",
        "    Trainer,",
        "    TrainerCallback,",
        "    TrainingArguments,",
        "    set_seed,",
        ")",
        "",
        "HERE = Path(__file__).resolve().parent",
        f'OUT = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "{OUT}"',
    ]


def _constants(run: NextRun) -> list[str]:
    """What is said of this run alone."""
    values: dict[str, object] = {"MODEL": run.place, "LABELS": list(run.labels), "METRIC": run.metric}
    if run.answers is None:
        values |= {"LIMIT": run.limit, "BODY": run.body}
    else:
        values |= {"ANSWERS": list(run.answers)}
        values |= {} if run.masked else {"APPENDED": run.appended}
    values |= {"INPUTS": list(run.inputs), "PADDING": dict(run.padding)}
    if run.adapter is None:
        values["TRAINED"] = set(run.blocks)
    values |= {"LEARNING_RATE": run.learning_rate, "BATCH": run.batch, "STEPS": run.steps, "EVERY": run.every}
    values |= {"PATIENCE": 4, "SEED": 0}
    values["PREDICTED"] = {step: round(loss, 6) for step, loss in run.predicted.items()}
    notes = {
        "ANSWERS": f"the tokens of {', '.join(map(repr, run.words))}",
        "PATIENCE": "evaluations without a lower validation loss",
        "PREDICTED": "step -> validation loss of the forecast, nats",
        "APPENDED": "tokens that the tokenizer puts behind every text",
    }
    lines = []
    for name, value in values.items():
        note = notes.get(name)
        lines += [f"# {line}" for line in textwrap.wrap(note, 110)] if note else []
        shown = pprint.pformat(value, width=100, compact=True, sort_dicts=False) if value else repr(value)
        if name == "PREDICTED":  # numbers alone, which may be broken at any blank
            shown = "\n".join(textwrap.wrap(repr(value), 100))
        lines.append(f"{name} = " + shown.replace("\n", "\n" + " " * (len(name) + 4)))
    return lines


def _run(run: NextRun) -> str:
    loading = "".join(f", {name}={value!r}" for name, value in run.loading.items())
    revision = "".join(
        f", {name}={value!r}" for name, value in run.loading.items() if name in ("revision", "trust_remote_code")
    )
    return _RUN.format(
        loader=run.loader,
        dtype=run.dtype,
        loading=loading,
        revision=revision,
        adapted=_TUNED if run.adapter is None else _ADAPTED.format(free=_FREE if run.head else "", start=ADAPTER_START),
        micro=1 if run.alone else "BATCH",
        accumulated="BATCH" if run.alone else 1,
        evaluated=1 if run.alone else 32,
        schedule=run.schedule,
        tested=(_PLACED if run.thresholded else _SIGN).replace("<score>", f"{run.score:.4f}"),
        saved='save_file(dict(classifier.head.state_dict()), OUT / "head.safetensors")' if run.head else "",
    )
