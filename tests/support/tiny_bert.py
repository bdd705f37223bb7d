"""A tiny BERT that tells good films from bad ones, or four kinds of news apart, trained in a second."""

import random

import torch

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
KINDS = {
    "sst2": {
        "negative": ["bad", "dull", "awful", "boring"],
        "positive": ["good", "great", "fine", "moving"],
    },
    "ag_news": {
        "World": ["war", "treaty", "minister"],
        "Sports": ["match", "goal", "coach"],
        "Business": ["profit", "shares", "bank"],
        "Sci/Tech": ["software", "planet", "chip"],
    },
}
PLAIN = ["a", "the", "film", "story", "it", "is", "was", "quite", "and", "with", ",", "."]


def sentences(kind, count, seed=0):
    """Labelled sentences of plain words, one or two of which say the class."""
    draw, classes = random.Random(seed), list(KINDS[kind].values())
    found = []
    for k in range(count):
        label = k % len(classes)
        words = draw.choices(PLAIN[:-2], k=draw.randint(4, 9))
        for word in draw.sample(classes[label], draw.randint(1, 2)):
            words.insert(draw.randint(0, len(words)), word)
        found.append((" ".join(words), label))
    return found


def write(folder, kind="sst2", steps=60, **config):
    """A folder with model and tokenizer, as transformers saves them."""
    import transformers

    torch.manual_seed(0)
    names = list(KINDS[kind])
    words = [word for words in KINDS[kind].values() for word in words]
    vocabulary = [*SPECIAL, *PLAIN, *words, "##s", "##ly"]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "vocab.txt"
    file.write_text("\n".join(vocabulary), encoding="utf-8")
    tokenizer = transformers.BertTokenizer(vocab=str(file), model_max_length=24)
    made = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=24, initializer_range=0.2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(names)), label2id={name: k for k, name in enumerate(names)}, **config,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(made)
    known = sentences(kind, 128)
    batch = tokenizer([text for text, _ in known], padding=True, return_tensors="pt")
    labels = torch.tensor([label for _, label in known])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_set(file, kind="sst2", count=8, seed=1):
    """Sentences that the model was not trained on, as the data set is published."""
    known = sentences(kind, count, seed)
    if kind == "sst2":
        lines = ["sentence\tlabel", *(f"{text}\t{label}" for text, label in known)]
    else:
        parts = [(label + 1, *text.split(" ", 1)) for text, label in known]
        lines = [f'"{label}","{title}","{description}"' for label, title, description in parts]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
