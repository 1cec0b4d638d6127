"""Maps the topics of a data set (the paper's Figure 2), counts them, and names the reference topics that hardly any row is about.

    python -m datagen.topics data/paper/pairs.jsonl data/paper/topics.html
    python -m datagen.topics questions.txt topics.html --embedding endpoint:text-embedding-3-small --topics 100

Takes what `datagen.format` takes, and questions: JSON lines with `text` or `question`, or .txt, one a line. Writes one page that loads nothing and, beside it,
`topics.json`, which `questions --fill` reads. Where no model can be had, texts are compared by their letters (TF-IDF), and page, JSON and terminal say so.
Distinct prompts are embedded (kept in data/embeddings), reduced with UMAP (arXiv 1802.03426) to 5 dimensions, where HDBSCAN (Campello et al. 2013) finds the
dense groups, and to 2 for display; labels are class-based TF-IDF (arXiv 2203.05794). One seed, one thread: the same rows give the same page.
"""

import argparse
import bisect
import json
import math
import os
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from datagen.config import read_yaml
from datagen.files import UserError, atomic, canonical, entry, quiet_libraries, read_json, read_text, sha256, templates, write_json, write_text

Encode = Callable[[list[str]], np.ndarray]  # texts to vectors (n, d)
REFERENCE = Path(__file__).with_name("topics.yaml")
KINDS = ("conversational", "general")
MODEL, LETTERS, OTHER = "sentence-transformers/all-MiniLM-L6-v2", "TF-IDF of letters (no model)", "Other"
CHARACTERS = 1000  # of a text that are embedded: MiniLM reads 256 tokens, about as many
PART = 256  # texts in one request to an endpoint, and in one file of the cache
NEIGHBOURS, FEWEST = 15, 20  # UMAP's default; distinct texts below which no density is estimated
EXACT = 25_000  # texts up to which all pairs are compared; NN-descent is faster, but compiles for 45 s
PAGE = 20_000_000  # characters of rows on the page; beyond that, long texts are cut
# From which cosine a row is about a reference topic. With a model: more than 99 % of the reference topics of different themes have in common. Word TF-IDF has
# no such scale (theirs is 0); 0.25, found on the published rows, is one shared word that is rare or makes up much of both texts.
RELATED, RELATED_WORDS = 99, 0.25


def reference(kind: str | None = None, path: Path = REFERENCE) -> dict[str, list[str]]:
    """Our topics under each of the paper's themes: all, or those for `conversational` or `general` questions; or the themes' `words`."""
    themes = {}
    for theme, lists in read_yaml(path, "reference topics").items():
        if not isinstance(lists, dict) or set(lists) != {"words", "both", *KINDS} or not all(isinstance(t, str) for v in lists.values() for t in v):
            raise UserError(f"{path}: {theme} needs four lists of text, words, conversational, general and both, and nothing else")
        themes[theme] = lists["words"] if kind == "words" else [topic for k in KINDS if kind in (None, k) for topic in lists[k]] + lists["both"]
    return themes


def thin(path: Path) -> list[str]:
    """The reference topics that a `topics.json` names as having hardly any row, emptiest first. Raises UserError for another file."""
    try:
        return [topic["topic"] for topic in read_json(path)["reference"]["thin"]]
    except (KeyError, TypeError):
        raise UserError(f"{path}: not a topics.json, which datagen.topics writes") from None


def read_rows(source: str) -> list[dict]:
    """Rows of id, prompt (what the user says), chosen and rejected (empty for questions). The id is the row's own, or the number of its line or row."""
    from datagen.format import answer_text, check_messages, read_pairs

    if source.endswith(".txt"):
        lines = [(line, f"{source}:{i}") for i, line in enumerate(read_text(Path(source), "questions, one a line").splitlines(), 1) if line.strip()]
        rows, places = [{"text": line} for line, _ in lines], [place for _, place in lines]
    else:
        rows, places = read_pairs(source)
    found = []
    for row, place in zip(rows, places, strict=True):
        if not isinstance(row, dict):
            raise UserError(f"{place}: expected an object with a prompt, got {str(row)[:60]!r}")
        answers = {c: row[c] if isinstance(row[c], str) else check_messages(row[c], place) for c in ("chosen", "rejected") if row.get(c)}
        shared = answers["chosen"][:-1] if isinstance(answers.get("chosen"), list) else None
        prompt = next((row[key] for key in ("prompt", "text", "question") if row.get(key) is not None), shared)
        if prompt is None:
            raise UserError(f"{place}: there is no prompt, text or question (the row has: {', '.join(map(str, row)) or 'nothing'})")
        if not isinstance(prompt, str):
            prompt = "\n".join(m["content"] for m in check_messages(prompt, place) if m["role"] == "user")
        fields = {"id": str(row["id"]) if row.get("id") is not None else re.search(r"\d+$", place)[0], "prompt": prompt.strip()}
        fields |= {c: answer_text(answers.get(c, "")) for c in ("chosen", "rejected")}
        found.append({k: v.encode("utf-8", "replace").decode() for k, v in fields.items()})  # half a surrogate pair is valid JSON, but not UTF-8
    if not any(row["prompt"] for row in found):
        raise UserError(f"{source}: holds no prompts")
    return found


# ---- embeddings


def unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def sentence_transformer(name: str) -> Encode:
    from huggingface_hub import hf_hub_download, utils

    utils.logging.set_verbosity_error()  # nothing about its retries
    try:
        if name == MODEL:  # whether it can be had is asked before torch is imported, which takes half a minute on a busy machine
            hf_hub_download(name, "modules.json")
    except Exception:  # as below; without a network the library's own words are about its client
        raise UserError(f"{name} is neither on this machine nor can it be downloaded") from None
    try:
        quiet_libraries()
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(name)
    except Exception as error:  # the library raises a dozen kinds for: not installed, no network, no such model, a broken file
        raise UserError(f"{name} cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())[:160]})") from None
    return lambda texts: model.encode(texts, batch_size=64, show_progress_bar=False)


def endpoint(model: str) -> Encode:
    """Asks `/v1/embeddings` at OPENAI_BASE_URL. Whatever goes wrong is a UserError that shows neither the key nor a password in the address."""
    import openai

    url, key = os.environ.get("OPENAI_BASE_URL", ""), os.environ.get("OPENAI_API_KEY", "")
    if not url:
        raise UserError("OPENAI_BASE_URL is not set: export the address of the server that embeds, usually ending in /v1")
    parts = urlsplit(url)
    where = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
    api = openai.OpenAI(base_url=url, api_key=key or "none", timeout=120, max_retries=4)

    def encode(texts: list[str]) -> np.ndarray:
        try:
            items = sorted(api.embeddings.create(model=model, input=texts, encoding_format="float").data, key=lambda item: item.index)
            vectors = np.array([item.embedding for item in items], dtype=np.float32)
            if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
                raise ValueError(f"{len(texts)} texts were sent, and no such number of vectors came back")
        except (openai.OpenAIError, TypeError, ValueError, AttributeError) as error:
            words = "nothing answers there" if isinstance(error, openai.APIConnectionError) else f"no embeddings by {model}: {' '.join(str(error).split())[:300]}"
            raise UserError(f"{where}: {words.replace(key or chr(0), '***')}. What was embedded is kept; mend this and run the command again") from None
        return vectors

    return encode


def kept(texts: list[str], identity: str, load: Callable[[], Encode], cache: Path) -> np.ndarray:
    """Unit vectors (n, d). `cache` keeps every one under the hash of model and text, in files of PART; the model is loaded only when one is missing.

    Stored as float16, and used as such on the first run too, so that all runs agree.
    """
    folder = cache / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', identity)[-60:].strip('-')}-{sha256(identity)[:8]}"
    keys, known = [sha256(f"{identity}\0{text}")[:32] for text in texts], {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as part:
            known.update(zip(part["keys"].tolist(), part["vectors"], strict=True))
    missing = [i for i, key in enumerate(keys) if key not in known]
    encode = load() if missing else None
    for start in range(0, len(missing), PART):
        part = missing[start : start + PART]
        vectors = unit(encode([texts[i] for i in part])).astype(np.float16)
        with atomic(folder / f"{keys[part[0]]}.npz", "wb") as file:
            np.savez(file, keys=np.array([keys[i] for i in part]), vectors=vectors)
        known.update(zip([keys[i] for i in part], vectors, strict=True))
        if start % (16 * PART) == 0 or start + PART >= len(missing):
            print(f"  {start + len(part):,} of {len(missing):,} texts embedded with {identity}")
    if len({len(known[key]) for key in keys}) != 1:
        raise UserError(f"{folder}: holds vectors of different lengths for one model; remove the folder and run the command again")
    return unit(np.stack([known[key] for key in keys]))


def letters(texts: list[str]) -> np.ndarray:
    """Unit vectors (n, at most 200) without a model: TF-IDF of 2 to 4 letters within words, reduced by truncated SVD. Needs no spaces between words.

    On the 2,225 published questions 60 % of the 15 nearest neighbours are MiniLM's too; words instead of letters find 57 %, words less stop words 53 %.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    matrix = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, max_features=30_000, dtype=np.float32).fit_transform(texts)
    return unit(TruncatedSVD(min(200, min(matrix.shape) - 1), random_state=0).fit_transform(matrix))


def embed(texts: list[str], embedding: str, cache: Path) -> tuple[np.ndarray, str, str]:
    """(unit vectors (n, d), what made them, why the fallback did or "")."""
    kind, _, name = embedding.partition(":")
    if embedding == "tfidf":
        return letters(texts), LETTERS, "as asked for"
    if kind == "endpoint" and name:
        return kept(texts, f"endpoint {name}", lambda: endpoint(name), cache), f"{name} at an endpoint", ""
    if embedding != "auto" and not (kind == "sentence-transformers" and name):
        raise UserError(f"--embedding {embedding}: expected auto, tfidf, endpoint:MODEL or sentence-transformers:MODEL")
    name = name or MODEL
    files = sorted(path for path in Path(name).rglob("*") if path.is_file())  # a local model is known by its content, one of the Hub by its name
    identity = f"{name} {sha256(canonical([sha256(path.read_bytes()) for path in files]))[:12]}" if files else name
    try:
        return kept(texts, identity, lambda: sentence_transformer(name), cache), name, ""
    except UserError as error:
        if embedding != "auto":
            raise
        return letters(texts), LETTERS, str(error)


def stem(word: str) -> str:
    """What hike, hikes and hiking share. Compared, never shown."""
    short = re.sub(r"(?:ing|ments?|ed|es|s|e)$", "", word) if word.isascii() else word
    return word if len(short) < 3 else short[:-1] if len(short) > 3 and short[-1] == short[-2] else short


def content_words(text: str) -> list[str]:
    """Words in lower case less English stop words; pairs of characters of Chinese and Japanese, which put no spaces."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    found = []
    for word in re.findall(r"[\u3040-\u30ff\u3400-\u9fff]+|[^\W\d_\u3040-\u30ff\u3400-\u9fff]+", re.sub(r"n['’]t\b|['’]\w{1,2}\b", "", text.lower())):
        found += [word[i : i + 2] for i in range(max(1, len(word) - 1))] if "\u3040" <= word[0] <= "\u9fff" else [word]
    return [word for word in found if word not in ENGLISH_STOP_WORDS and (len(word) > 2 or not word.isascii())]


# ---- map, groups, labels


def layout(vectors: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (n, 5) to group and (n, 2) to show. Fewer than FEWEST texts are only projected on their first principal axes."""
    n = len(vectors)
    if n < FEWEST:
        left, scale, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
        flat = np.pad(left * scale, ((0, 0), (0, 5)))
        return flat[:, :5], flat[:, :2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap: no tensorflow here, no index to place new points, one thread because of the seed
        import umap
        from umap.umap_ import nearest_neighbors

        k = min(NEIGHBOURS, n - 1)
        if n <= EXACT:
            near, far = np.empty((n, k), dtype=np.int32), np.empty((n, k), dtype=np.float32)
            for at in range(0, n, 1024):
                distances = 1 - vectors[at : at + 1024] @ vectors.T
                near[at : at + 1024] = order = np.argsort(distances, axis=1, kind="stable")[:, :k]
                far[at : at + 1024] = np.maximum(np.take_along_axis(distances, order, 1), 0)
        else:
            near, far, _ = nearest_neighbors(vectors, k, "cosine", None, False, np.random.RandomState(seed), n_jobs=1)
        common = {"n_neighbors": k, "metric": "cosine", "random_state": seed, "n_jobs": 1, "init": "pca", "precomputed_knn": (near, far)}
        return tuple(umap.UMAP(n_components=d, min_dist=gap, **common).fit_transform(vectors) for d, gap in ((5, 0.0), (2, 0.5)))


def group(points: np.ndarray, vectors: np.ndarray, wanted: int | None) -> tuple[np.ndarray, np.ndarray, int]:
    """(topic of each text or -1, whether it lies in a dense area, min_cluster_size).

    The least size of a group decides how fine the topics are: √n / 6 distinct texts, at least 5; then topics grow like √n, and 10,884 rows have about the
    paper's 256. `wanted` searches for the size that comes nearest to so many. A text between the dense areas joins the topic whose mean it is nearest to, if
    a tenth of that topic's dense texts are as far from it; else it has no topic.
    """
    from sklearn.cluster import HDBSCAN

    if len(points) < FEWEST:
        return np.full(len(points), -1), np.zeros(len(points), dtype=bool), 0

    def found(size: int) -> np.ndarray:
        return HDBSCAN(min_cluster_size=size, min_samples=5, cluster_selection_method="leaf", copy=True).fit_predict(points)

    size = max(5, round(math.sqrt(len(points)) / 6))
    if wanted:
        sizes = sorted({round(3 * 1.12**i) for i in range(80)} & set(range(len(points) // 2)))
        counts = {}
        at = bisect.bisect_left(sizes, -wanted, key=lambda s: -counts.setdefault(s, found(s).max() + 1))
        size = min(sizes[max(0, at - 1) : at + 1], key=lambda s: abs(counts.setdefault(s, found(s).max() + 1) - wanted))
    labels = found(size)
    dense = labels >= 0
    if dense.any() and not dense.all():
        means = unit(np.stack([vectors[labels == t].mean(axis=0) for t in range(labels.max() + 1)]))
        limits = np.array([np.percentile(vectors[labels == t] @ mean, 10) for t, mean in enumerate(means)])
        cosines = vectors[~dense] @ means.T
        best = cosines.argmax(axis=1)
        labels[~dense] = np.where(cosines.max(axis=1) >= limits[best], best, -1)
    return labels, dense, size


def topic_words(texts: list[str], labels: np.ndarray) -> list[list[str]]:
    """Up to five words of each topic by class-based TF-IDF times inverse topic frequency: words of most topics ("favorite") are form, not topic."""
    bags, forms = [Counter() for _ in range(labels.max() + 1)], {}
    for text, label in zip(texts, labels, strict=True):
        for word in content_words(text[:CHARACTERS]) if label >= 0 else ():
            bags[label][stem(word)] += 1
            forms.setdefault(stem(word), Counter())[word] += 1
    spread = Counter(word for bag in bags for word in bag)
    total = {word: form.total() for word, form in forms.items()}
    average = sum(total.values()) / max(1, len(bags))
    result = []
    for bag in bags:
        weight = {w: c * math.log(1 + average / total[w]) * math.log(1 + len(bags) / spread[w]) for w, c in bag.items()}
        result.append([max(forms[w], key=lambda form: (forms[w][form], form)) for w in sorted(weight, key=lambda w: (-weight[w], w))[:5]])
    return result


def relate(texts: list[str], themes: dict[str, list[str]], vocabulary: list[str], vectors: np.ndarray, fallback: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Cosines (n, 256) of texts with the reference topics and (n, 12) with the themes, and from which one of the first a text is about the topic.

    `vectors` are those of texts, topics and themes' words. Without a model it is words that are compared, since similar letters mean little between short phrases.
    """
    names = [topic for topics in themes.values() for topic in topics]
    theme = np.repeat(np.arange(len(themes)), [len(topics) for topics in themes.values()])
    n, m = len(texts), len(names)
    if fallback:
        from sklearn.feature_extraction.text import TfidfVectorizer

        matrix = TfidfVectorizer(analyzer=lambda text: [stem(w) for w in content_words(text)], sublinear_tf=True).fit_transform([*texts, *names, *vocabulary])
        cosines, least = (matrix[:n] @ matrix[n:].T).toarray(), RELATED_WORDS
    else:
        cosines, among = vectors[:n] @ vectors[n:].T, vectors[n : n + m] @ vectors[n : n + m].T
        least = float(np.percentile(among[theme[:, None] != theme], RELATED))
    nearest = np.stack([cosines[:, :m][:, theme == t].max(axis=1) for t in range(len(themes))], axis=1)
    return cosines[:, :m], cosines[:, m:] + nearest, least


def spread(counts: list[int]) -> dict:
    """How evenly rows lie over groups: [value, lower, upper] of the evenness H / log k (Pielou 1966; 1 is even) and of the largest share, at 95 %.

    Few rows a group look uneven by chance alone: a bootstrap over rows, the groups held fixed, takes that off value and interval. Wilson for the share.
    """
    from eval.surface import wilson

    n = sum(counts)
    if len(counts) < 2 or not n:
        return {}

    def evenness(shares: np.ndarray) -> np.ndarray:
        return -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=-1) / math.log(len(counts))

    draws = evenness(np.random.default_rng(0).multinomial(n, np.array(counts) / n, 1000) / n)
    corrected = 2 * evenness(np.array(counts) / n) - np.array([draws.mean(), *np.percentile(draws, [97.5, 2.5])])
    found = {"evenness": np.clip(corrected, 0, 1), "largest share": (max(counts) / n, *wilson(max(counts), n))}
    return {name: [round(float(x), 4) for x in values] for name, values in found.items()}


def analyse(rows: list[dict], embedding: str, cache: Path, with_answers: bool, wanted: int | None, seed: int) -> tuple[dict, dict]:
    """(what topics.json says, where the page's script finds each row: x, y, topic, whether in a dense area). Prints the seconds of every part."""
    clock = time.perf_counter()

    def lap(what: str) -> None:
        nonlocal clock
        print(f"  {time.perf_counter() - clock:5.1f} s  {what}")
        clock = time.perf_counter()

    themes, vocabulary = reference(), [" ".join(words) for words in reference("words").values()]
    names = [topic for topics in themes.values() for topic in topics]
    whole = [f"{row['prompt']}\n{row['chosen']}" if with_answers and row["prompt"] else row["prompt"] for row in rows]
    place = {text: i for i, text in enumerate(dict.fromkeys(filter(None, whole)))}
    texts = [text[:CHARACTERS] for text in place]
    vectors, made_by, fallback = embed([*texts, *names, *vocabulary], embedding, cache)
    lap(f"embedding of {len(texts):,} distinct texts: {made_by}" + (f"; {fallback}" if fallback else ""))
    near, near_theme, least = relate(texts, themes, vocabulary, vectors, bool(fallback))
    vectors = vectors[: len(texts)]
    points, flat = layout(vectors, seed)
    lap("reduction: UMAP to 5 and 2 dimensions")
    labels, dense, size = group(points, vectors, wanted)
    lap(f"groups: HDBSCAN, min_cluster_size {size}")

    # From here on it is rows that are counted, not texts; a row without a prompt is text -1. Topics are numbered by size.
    text_of = np.array([place.get(text, -1) for text in whole])
    per_topic = np.bincount(labels[text_of[text_of >= 0]] + 1, minlength=labels.max() + 2)[1:]
    order = np.append(np.argsort(np.argsort(-per_topic, kind="stable"), kind="stable"), -1)
    labels = order[labels]
    topic = np.where(text_of >= 0, labels[text_of], -1)
    topics, labelled = [], Counter()
    for t, words in enumerate(topic_words(texts, labels)):
        members, mine = np.flatnonzero(labels == t), np.flatnonzero(topic == t)
        label = ", ".join(words[:3]) or "only common words"
        labelled[label] += 1
        theme = list(themes)[near_theme[members].mean(axis=0).argmax()] if near[members].max(axis=1).mean() >= least else OTHER
        middle = members[np.argsort(-vectors[members] @ vectors[members].mean(axis=0), kind="stable")[:3]]
        first = [rows[np.flatnonzero(text_of == text)[0]] for text in middle]
        topics.append(
            {"id": t, "label": label + (f" ({labelled[label]})" if labelled[label] > 1 else ""), "words": words, "theme": theme}
            | {"nearest reference topic": names[near[members].mean(axis=0).argmax()], "n": len(mine), "share": round(len(mine) / len(rows), 5)}
            | {"representative": [{"id": row["id"], "prompt": row["prompt"][:300]} for row in first], "rows": [rows[i]["id"] for i in mine]}
        )
    by_theme = {theme: sum(t["n"] for t in topics if t["theme"] == theme) for theme in [*themes, OTHER]}
    about = np.append(np.where(near.max(axis=1) >= least, near.argmax(axis=1), -1), -1)[text_of]
    filled = np.bincount(about + 1, minlength=len(names) + 1)[1:]
    below = max(1, math.ceil(len(rows) / len(names) / 10))
    listed = [{"topic": topic, "theme": theme, "n": int(n)} for (theme, topic), n in zip([(h, t) for h, ts in themes.items() for t in ts], filled, strict=True)]
    in_topic = topic >= 0
    summary = {
        "embedding": {"made by": made_by, "fallback": fallback, "text": "prompt and chosen" if with_answers else "prompt"},
        "settings": {"seed": seed, "n_neighbors": NEIGHBOURS, "dimensions": 5, "min_cluster_size": size, "min_samples": 5, "topics asked for": wanted},
        "rows": {"all": len(rows), "distinct": len(texts), "without prompt": [row["id"] for row in rows if not row["prompt"]]},
        "no topic": {"n": int((~in_topic).sum()), "share": round(float((~in_topic).mean()), 5), "rows": [rows[i]["id"] for i in np.flatnonzero(~in_topic)]},
        "joined from between dense areas": int((in_topic & ~np.append(dense, False)[text_of]).sum()),
        "imbalance": {"topics": spread([t["n"] for t in topics]), "themes": spread([by_theme[theme] for theme in themes])},
        "small topics": [t["label"] for t in topics if t["n"] < in_topic.sum() / len(topics) / 2],
        "themes": [{"theme": theme, "n": n, "topics": sum(t["theme"] == theme for t in topics)} for theme, n in by_theme.items()],
        "topics": topics,
        "reference": {"related from cosine": round(least, 4), "hardly any below": below, "rows about one": int((about >= 0).sum())}
        | {"thin": sorted((t for t in listed if t["n"] < below), key=lambda t: t["n"]), "topics": listed},
    }
    low, high = flat.min(axis=0), flat.max(axis=0)
    xy = (flat - low) / max(float((high - low).max()), 1e-9) * 10_000
    copies, shown = Counter(), {"row": [], "x": [], "y": [], "t": [], "dense": []}
    for i, text in enumerate(text_of.tolist()):
        if text >= 0:  # copies of a text lie around it in a sunflower's order
            turn, away = 2.39996 * copies[text], 12 * math.sqrt(copies[text])
            copies[text] += 1
            for key, value in zip(shown, (i, xy[text, 0] + away * math.cos(turn), xy[text, 1] + away * math.sin(turn), topic[i], dense[text]), strict=True):
                shown[key].append(round(float(value)))
    lap("labels, themes, counts")
    return summary, shown


def page(rows: list[dict], summary: dict, shown: dict) -> str:
    """The HTML, with the rows as JSON in which no tag can close or open anything; long texts are cut so that all fit into PAGE characters."""
    columns = [column for column in ("prompt", "chosen", "rejected") if any(row[column] for row in rows)]
    cut = next((c for c in (10**9, 4000, 2000, 1000, 500, 250, 120) if sum(min(len(row[col]), c) for row in rows for col in columns) <= PAGE), 60)
    data = shown | {"id": [rows[i]["id"] for i in shown["row"]], "themes": [theme["theme"] for theme in summary["themes"]]}
    data |= {column: [row[column][:cut] + "…" * (len(row[column]) > cut) for row in (rows[i] for i in shown["row"])] for column in columns}
    data["topics"] = [[t["label"], t["theme"], t["n"]] for t in summary["topics"]]
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e")
    return templates(REFERENCE.parent, html=True).get_template("topics.html.j2").render(s=summary, data=text, nonce=sha256(text)[:32], cut=cut if cut < 10**9 else 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", help="pairs or questions: .jsonl, .json, .parquet, .txt, or the id of a Hub data set")
    parser.add_argument("out", type=Path, help="the page, .html; topics.json is written beside it under the same name")
    parser.add_argument("--embedding", default="auto", help=f"auto ({MODEL}, or TF-IDF where it cannot be had), sentence-transformers:MODEL, endpoint:MODEL, tfidf")
    parser.add_argument("--text", choices=["prompt", "prompt+chosen"], default="prompt", help="what is embedded of a row")
    parser.add_argument("--topics", type=int, help="about so many topics, instead of what the number of rows suggests")
    parser.add_argument("--cache", type=Path, default=Path("data/embeddings"))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.out.suffix != ".html" or (args.topics is not None and args.topics < 1):
        raise UserError("the second argument is the page and ends in .html, and --topics is at least 1")
    rows = read_rows(args.pairs)
    digest = sha256(Path(args.pairs).read_bytes() if Path(args.pairs).exists() else canonical(rows))
    summary, shown = analyse(rows, args.embedding, args.cache, args.text != "prompt", args.topics, args.seed)
    summary = {"source": {"file": args.pairs, "sha256": digest, "json": str(args.out.with_suffix(".json"))}} | summary
    html = page(rows, summary, shown)
    write_json(args.out.with_suffix(".json"), summary)
    write_text(args.out, html)
    wanting = [topic["topic"] for topic in summary["reference"]["thin"]]
    print(
        f"{len(rows):,} rows ({summary['rows']['distinct']:,} distinct), {len(summary['topics'])} topics, {summary['no topic']['share']:.1%} without; "
        f"embedding: {summary['embedding']['made by']}\n{len(wanting)} of {len(summary['reference']['topics'])} reference topics have hardly any row"
        f"{': ' if wanting else ''}{', '.join(wanting[:5])}{', …' if len(wanting) > 5 else ''}\n{args.out}, {args.out.with_suffix('.json')}"
    )


if __name__ == "__main__":
    entry(main)
