# The whole pipeline as a graph of files. `make` alone explains itself; `make -n <target>` shows what would run.
#
# What a file depends on is compared by content, not by time: settings are written to *.key files and run.yaml only when
# their text changes, so touching or checking out a file never retrains anything. All outputs are written to a temporary name and
# renamed, so they are whole or absent (hence no .DELETE_ON_ERROR, which could delete what was paid for).

SHELL       := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS   += --no-builtin-rules --warn-undefined-variables
.DEFAULT_GOAL := help
.SECONDARY:

# Base to train: the name of a file in axolotl/.
MODEL ?= tiny
# A delta of axolotl/ablations/, or nothing.
ABLATION ?=
# Ablations for `make ablate`; empty: all of them.
SET ?=
# Settings for several GPUs: a file of axolotl/scale/, or nothing.
SCALE ?=
# GPU to plan for, such as a100-80g:2; empty: those found.
GPU ?=
# Your own pairs instead of generated ones: .jsonl, .json, .parquet, or the id of a Hub data set.
PAIRS ?=
# Your own questions instead of generated ones: one a line, or .jsonl.
QUESTIONS ?=
# Settings of data generation: a profile of datagen/config.yaml.
PROFILE ?= $(if $(filter tiny,$(MODEL)),tiny,paper)
# Adds questions on the topics that a topics.json (of `make topics`) says are missing, up to a raised questions.count.
FILL ?=
# One machine's part of the questions, such as 3/16 (see the README); empty: all of them.
SHARD ?=
# The most that a data set may cost, in US dollars; empty: no cap.
BUDGET_USD ?=
# Where to publish a data set or a model: org/name on the Hub.
REPO ?=
# 1: publishing only writes the card and the files, and sends nothing.
DRY_RUN ?=
# 1: what is published is public; empty: private.
PUBLIC ?=
# Licence of the published data set or model, where that of its generator model is not known.
LICENCE ?=
# What `make publish` pushes and `make eval` evaluates: adapter or merged.
WHAT ?= adapter
# Where the data set of a published model lies on the Hub, to be linked: org/name.
DATA_REPO ?=
# 1: `make chat` on a page of this machine instead of in the terminal.
WEB ?=
# 1: a grave alarm of train.health ends the run; empty: alarms are only printed.
STOP_ON_ALARM ?=
# GPUs to train on; empty: as many as there are.
GPUS ?= $(if $(filter tiny,$(MODEL)),0,)
# What evaluates: hf (transformers), vllm, or endpoint (a server of yours with /v1/completions).
BACKEND ?= hf
# lm-eval tasks for `make eval` instead of the whole leaderboard, by name or as YAML files.
TASKS ?=
# Items of each task, for a cheap look; empty: all of them.
LIMIT ?=
# Folder with local copies of evaluation data sets, as <org>/<name>/; the embedded model has small items of our own.
ITEMS ?= $(if $(filter tiny,$(MODEL)),out/items)
# Names under which base and tuned model are served, for answers and for BACKEND=endpoint (auto: the one model at OPENAI_BASE_URL, TUNED_BASE_URL).
BASE_MODEL ?= auto
TUNED_MODEL ?= auto
# Replies of each model to each probe of `make disclosure`, and of the base model to each question of `make reward`.
K ?= 4
# A judge model for `make judge` and, if named, `make disclosure` and `make rate`, at JUDGE_BASE_URL (else OPENAI_BASE_URL).
JUDGE_MODEL ?=
# What answers the held-out questions: endpoint (servers of yours; the embedded model brings its own), or the run's models by transformers or vllm.
ENGINE ?= endpoint
# Name of a rubric and its ratings, in data/traits/.
NAME ?= $(DATASET:pairs-%=%)
# Traits that `make rate` rates: our own, which need no model, or data/traits/<name>/rubric.json of `make traits`.
RUBRIC ?= datagen/traits/rubric.json
# 1: `make traits` takes the middle of each group of statements, without a model that merges them; the embedded model cannot.
MEDOIDS ?= $(if $(filter tiny,$(PROFILE)),1)
# Texts that `make rate` rates and shows, with what all would cost, instead of rating all.
PREVIEW ?=
# Weights of the human-likeness score, from `python -m eval.likeness … --save`, or data/<set>/weights.json; empty: eval/weights/.
WEIGHTS ?=
# What `make reward` makes: data/reward-<name>/; the ablation `reward` takes it from there.
REWARD ?= $(PLAIN)
# Files of other models' answers for `make reward`, rows of prompt and text.
CANDIDATES ?=
# Texts for `make score`: answers, pairs, games, or rows of text.
TEXTS ?=
# The contrastive set that `make traits-eval` learns from.
FIT ?=
# Another one to try what was learnt from FIT on; empty: FIT is cross-validated.
TEST ?=
# Ratings of FIT by a judge, for `make traits-eval`.
RATINGS ?=
# Ratings of TEST by the same judge.
TEST_RATINGS ?=
# Design of a study of votes.
STUDY ?= eval/study.yaml
# Options of `make vote-plan`, such as '--rate 0.6 --width 0.03 --power 0.9 --raters 50'.
PLAN ?=
# Options of `make vote-demo`, such as '--raters 30 --prefer 0.6 --length 2 --careless 0.3'.
RATERS ?=
# How the raters of published votes were found, in your words; no apostrophe.
FOUND ?=
# Settings of role-played dialogues; PROFILE is one of its profiles.
ROLEPLAY ?= datagen/roleplay/config.yaml
# Sets of dialogues side by side in `make roleplay-report`, by name; empty: that of PROFILE.
SETS ?=
# Design of a detection study.
DETECTION ?= eval/detection.yaml
# Design of a collection of natural dialogues.
COLLECTION ?= eval/collection.yaml
# Python that makes the environment .venv (3.10 to 3.13).
PYTHON ?= python3
VARIABLES := MODEL ABLATION SET SCALE GPU PAIRS QUESTIONS PROFILE FILL SHARD BUDGET_USD REPO DRY_RUN PUBLIC LICENCE WHAT DATA_REPO WEB STOP_ON_ALARM GPUS BACKEND TASKS LIMIT ITEMS BASE_MODEL TUNED_MODEL K JUDGE_MODEL ENGINE WEIGHTS REWARD CANDIDATES TEXTS FIT TEST RATINGS TEST_RATINGS NAME RUBRIC MEDOIDS PREVIEW STUDY PLAN RATERS DETECTION COLLECTION ROLEPLAY SETS FOUND PYTHON

MODELS    := $(patsubst axolotl/%.yaml,%,$(wildcard axolotl/*.yaml))
ABLATIONS := $(patsubst axolotl/ablations/%.yaml,%,$(wildcard axolotl/ablations/*.yaml))
ifeq ($(filter $(MODEL),$(MODELS)),)
$(error there is no axolotl/$(MODEL).yaml; MODEL is one of: $(MODELS))
endif
ifneq ($(ABLATION),)
ifeq ($(filter $(ABLATION),$(ABLATIONS)),)
$(error there is no axolotl/ablations/$(ABLATION).yaml; ABLATION is one of: $(or $(ABLATIONS),(none yet)))
endif
endif
export BUDGET_USD STOP_ON_ALARM
ifneq ($(word 2,$(PAIRS))$(word 2,$(QUESTIONS))$(word 2,$(STUDY)),)
$(error PAIRS, QUESTIONS and STUDY cannot hold a space: make would take it for two files; rename the file or link to it)
endif

# Where things lie: data/<set>/<base>/ and out/<run>/. A set is a profile, a profile with your questions, or your pairs.
stem  = $(if $(filter %/pairs.jsonl,$(1)),$(notdir $(patsubst %/,%,$(dir $(1)))),$(basename $(notdir $(1))))
DATASET := $(if $(PAIRS),pairs-$(subst /,--,$(if $(wildcard $(PAIRS)),$(call stem,$(PAIRS)),$(PAIRS))),$(PROFILE)$(if $(QUESTIONS),-$(call stem,$(QUESTIONS))))
DATA  := data/$(DATASET)
# An ablation that changes the data has rendered rows of its own.
DELTA   := $(if $(ABLATION),axolotl/ablations/$(ABLATION).yaml)
VARIANT := $(if $(DELTA),$(shell grep -l '^data:' $(DELTA)))
# One that adds honest answers about being an AI needs that many of them.
HONEST  := $(if $(VARIANT),$(shell sed -n 's/^[^\#]*honest_identity: *\([1-9][0-9]*\).*/\1/p' $(VARIANT)))
HONEST_DATA := $(if $(HONEST),$(DATA)/honest-$(HONEST).jsonl)
READY_DATA := $(DATA)/$(MODEL)$(if $(VARIANT),+$(ABLATION))/stats.json
PLAIN := $(MODEL)$(if $(filter-out $(if $(filter tiny,$(MODEL)),tiny,paper),$(DATASET)),@$(DATASET))
RUN   := $(PLAIN)$(if $(ABLATION),+$(ABLATION))
# One that trains on pairs made by the score needs those, and they need what the plain run holds out.
REWARD_DATA := data/reward-$(REWARD)/pairs.jsonl
REWARDED    := $(if $(VARIANT),$(shell sed -n 's/^data:.*[{ ,]reward: *true.*/1/p' $(DELTA)))
PLAIN_DATA  := $(DATA)/$(MODEL)/stats.json
VARIED      := $(if $(VARIANT),--variant $(VARIANT)) $(if $(HONEST),--honest $(HONEST_DATA)) $(if $(REWARDED),--reward $(REWARD_DATA))
# A second scorer, which made no pairs: a set that the score made brings that of the set it was made from.
SECOND := $(or $(if $(PAIRS),$(wildcard $(dir $(PAIRS))second.json)),$(DATA)/second.json)
OUT   := out/$(RUN)
ifeq ($(origin RUN),command line)
ifneq ($(filter eval,$(MAKECMDGOALS)),)
ifeq ($(filter $(MODEL) $(MODEL)@% $(MODEL)+%,$(RUN)),)
$(error RUN=$(RUN) is not a run of MODEL=$(MODEL); name its base, too)
endif
endif
ifneq ($(filter-out chat publish eval,$(MAKECMDGOALS)),)
$(error RUN= names a finished run for `make chat`, `make eval` and `make publish`; a run to be made is named by MODEL, ABLATION and the data)
endif
endif
# What `make eval` evaluates, and the small items that the embedded model is asked.
EVALUATED   := $(if $(filter command line,$(origin RUN)),,$(OUT)/$(if $(filter merged,$(WHAT)),merged/merge.json,done))
ITEMS_READY := $(if $(filter out/items,$(ITEMS)),out/items.ready)
VOTES := out/votes/$(shell sed -n 's/^name: *\([^ \#]*\).*/\1/p' $(STUDY) 2>/dev/null)
DETECT  := out/detect/$(shell sed -n 's/^name: *\([^ \#]*\).*/\1/p' $(DETECTION) 2>/dev/null)
COLLECT := out/collect/$(shell sed -n 's/^name: *\([^ \#]*\).*/\1/p' $(COLLECTION) 2>/dev/null)
STORE := data/responses
PART  := $(DATA)$(if $(SHARD),/shards/$(subst /,of,$(SHARD)))
# The pairs that are looked at and published: yours, or those made here.
MINE  := $(or $(PAIRS),$(PART)/pairs.jsonl)
TRAITS = data/traits/$(NAME)

PY    := .venv/bin/python
READY := .venv/ready-$(shell cat requirements-gpu.txt requirements.txt | sha256sum | cut -c1-12)
# lm-eval and Axolotl need different versions of one package, and the wrong one scores 0 in silence: a second environment.
READY_EVAL := .venv-eval/ready-$(shell cat requirements-eval.txt constraints-eval.txt | sha256sum | cut -c1-12)
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# No telemetry; no look-ups on the Hub for a model that lies here.
export AXOLOTL_DO_NOT_TRACK := 1
export DO_NOT_TRACK := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false
# OpenMP threads wait by spinning for minutes by default: tenfold and more slower as soon as another program wants the cores.
export GOMP_SPINCOUNT := 30000
ifeq ($(MODEL),tiny)
ifneq ($(if $(PAIRS),$(wildcard $(PAIRS)),none),)
export HF_HUB_OFFLINE := 1
endif
export CUDA_VISIBLE_DEVICES :=
export TORCHAO_FORCE_SKIP_LOADING_SO_FILES := 1
endif

# The embedded model answers for the profile tiny: its server runs as long as the command behind `--`.
TINY_GGUF := out/tiny-base.gguf
SERVED    := $(if $(filter tiny,$(PROFILE)),$(TINY_GGUF),)
# A cheap look at the answers has a file of its own: it never passes for the whole.
ANSWERS     := $(OUT)/answers$(if $(LIMIT),-first-$(LIMIT)).jsonl
# The embedded model's two servers, unless another engine was asked for.
SERVE_BOTH  := $(if $(filter tiny/endpoint,$(MODEL)/$(ENGINE)),$(TINY_GGUF) $(OUT)/tuned.gguf)
# The second embedded model plays the person in dialogues, at an address of its own.
INQUIRER_GGUF := out/tiny-inquirer.gguf
SERVED_PAIR   := $(if $(SERVED),$(SERVED) $(INQUIRER_GGUF))
SERVE_PAIR    := $(if $(SERVED),$(PY) -m tiny.serve $(SERVED) INQUIRER_BASE_URL=$(INQUIRER_GGUF) --)
SERVE     := $(if $(SERVED),$(PY) -m tiny.serve $(SERVED) --,)

.PHONY: help setup demo preview data audit topics publish-data plan format train health ablate measure where chat publish merge eval judge leaderboard answers disclosure score traits-eval reward traits rate vote-plan vote vote-demo vote-report collect detect detect-report roleplay roleplay-pairs roleplay-report publish-votes report test lint tiny tiny-inquirer clean distclean FORCE

help:  ## Show this text
	@echo 'make <target> [VARIABLE=value …]'
	@echo
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@awk '/^# / {text = substr($$0, 3)} /^[A-Z_]+ +\?=/ {print $$1 "\t" text}' $(firstword $(MAKEFILE_LIST)) | while IFS=$$'\t' read -r name text; do printf '  %-12s now: %-10s %s\n' "$$name" "$$($(foreach v,$(VARIABLES),[ "$$name" != $(v) ] || printf '%s' '$($(v))';) true)" "$$text"; done
	@echo
	@echo '  MODEL is one of: $(MODELS)'
	@echo '  data in $(DATA), run in $(OUT)'

setup: $(READY)  ## Make the environment .venv with everything pinned (about 3 minutes)

demo:  ## The whole method on the embedded model, on two CPU cores
	@$(MAKE) --no-print-directory report MODEL=tiny PROFILE=tiny ABLATION= PAIRS= QUESTIONS= GPUS=0
	@echo 'Open out/tiny/report.html (the same text: out/tiny/report.md)'
	@[ -z "$${DISPLAY:-}$${WAYLAND_DISPLAY:-}" ] || $(PY) -m webbrowser -t out/tiny/report.html >/dev/null 2>&1 || true

preview: $(SERVED) | $(READY)  ## A handful of pairs, what the filters say of them, and what the whole would cost
	@$(SERVE) $(PY) -m datagen.preview --profile $(PROFILE) --store $(STORE) $(if $(QUESTIONS),--from $(QUESTIONS))

data: $(if $(PAIRS),$(READY_DATA),$(PART)/pairs.jsonl)  ## Questions, both answers, filters: the pairs

audit: $(if $(PAIRS),,$(MINE)) | $(READY)  ## What a preference data set teaches by accident: one HTML page on PAIRS, or on the data made here
	@$(PY) -m datagen.audit $(MINE) $(PART)/audit.html

topics: $(if $(PAIRS),,$(MINE)) | $(READY)  ## An interactive map of the topics of PAIRS, or of the data made here
	@$(PY) -m datagen.topics $(MINE) $(PART)/topics.html

publish-data: | $(READY)  ## Write the data card and push the data set to REPO (DRY_RUN=1: only write)
	@$(PY) -m train.publish data $(DATA) $(REPO) $(if $(filter-out 0,$(DRY_RUN)),--dry-run) $(if $(filter-out 0,$(PUBLIC)),--public) $(if $(LICENCE),--licence '$(LICENCE)')

plan: | $(READY)  ## Memory, time and disk of a run, before anything is downloaded; refuses what cannot fit
	@$(PY) -m train.plan $(MODEL) $(if $(ABLATION),--ablation $(ABLATION)) $(if $(SCALE),--scale $(SCALE)) $(if $(GPU),--gpu $(GPU)) $(if $(wildcard $(READY_DATA)),--data $(READY_DATA:/stats.json=))

format: $(READY_DATA)  ## Render the pairs with MODEL's own chat template, and split them

train: $(OUT)/margins.svg  ## Train MODEL by LoRA + DPO, and draw its reward margins

health: $(OUT)/margins.svg  ## Alarms over the log, settings, data and answers of a run, each with what to try
	@$(PY) -m train.health $(OUT) --data $(READY_DATA:/stats.json=)

ablate: | $(READY)  ## Run MODEL and its ablations SET, those that are missing, and put them into one table with intervals
	@$(PY) -m train.ablate $(MODEL) --set '$(SET)' $(if $(GPUS),--gpus $(GPUS)) $(foreach v,PAIRS QUESTIONS PROFILE K WEIGHTS REWARD CANDIDATES,'$(v)=$($(v))')

# What `make ablate` needs of one run. Answers need a server of each tuned model, which the embedded model brings along, or an ENGINE that does without yours.
measure: $(OUT)/heldout.json $(OUT)/margins.svg $(if $(filter tiny transformers vllm,$(MODEL) $(ENGINE)),$(OUT)/answers-likeness.json)
	@$(PY) -m train.health $(OUT) --data $(READY_DATA:/stats.json=)

where:
	@echo $(OUT) $(dir $(READY_DATA))

merge: $(OUT)/merged/merge.json  ## Merge the adapter into its base, and check the result

chat: | $(READY)  ## Chat with the trained model in the terminal, or on a page (WEB=1); RUN= names any finished run
ifeq ($(MODEL),tiny)
	@test -e $(OUT)/merged/merge.json || { echo 'error: $(OUT)/merged: there is no merged model; run `make merge` first' >&2; exit 1; }
	@[ $(OUT)/tuned.gguf -nt $(OUT)/merged/merge.json ] || $(PY) -m tiny.convert $(OUT)/merged $(OUT)/tuned.gguf
	@$(PY) -m tiny.serve $(OUT)/tuned.gguf -- $(PY) -m train.chat $(OUT) --endpoint $(if $(filter-out 0,$(WEB)),--web)
else
	@$(PY) -m train.chat $(OUT) $(if $(filter-out auto,$(TUNED_MODEL)),--endpoint --model $(TUNED_MODEL)) $(if $(filter-out 0,$(WEB)),--web)
endif

publish: | $(READY)  ## Write the card of the trained model and push it to REPO (DRY_RUN=1: only write; WHAT=merged: the merged model)
	@$(PY) -m train.publish model $(OUT) $(REPO) --what $(WHAT) $(if $(filter-out 0,$(DRY_RUN)),--dry-run) $(if $(filter-out 0,$(PUBLIC)),--public) $(if $(LICENCE),--licence '$(LICENCE)') $(if $(DATA_REPO),--data-repo $(DATA_REPO))

eval: $(EVALUATED) $(ITEMS_READY) | $(READY) $(READY_EVAL)  ## Open LLM Leaderboard v2 through lm-eval: base against tuned, with intervals
	@$(EVALUATE)

leaderboard: | $(READY)  ## All evaluated runs and ablations in one sortable table with intervals: out/leaderboard.html
	@$(PY) -m eval.board

answers: $(ANSWERS)  ## Base and tuned model answer the held-out questions; compare their style
	@$(PY) -m eval.surface $<

# Always asked for: what the store holds is not asked again, so a second time takes seconds and a larger K only asks for what is new.
disclosure: $(OUT)/done $(SERVE_BOTH)  ## Do base and tuned model say that they are AIs when asked, deny it, make up a life?
	@$(if $(SERVE_BOTH),$(PY) -m tiny.serve $(SERVE_BOTH) --,$(if $(filter vllm,$(ENGINE)),$(PY) -m eval.serve $(OUT) --)) $(PY) -m eval.disclosure $(OUT) --k $(K) \
	  --profile $(PROFILE) --store $(STORE) $(if $(filter vllm,$(ENGINE)),,--base-model $(BASE_MODEL) --tuned-model $(TUNED_MODEL)) $(if $(JUDGE_MODEL),--judge-model $(JUDGE_MODEL))

judge: $(OUT)/answers.jsonl  ## A proxy for votes: a judge model says which answers sound more like a person (JUDGE_MODEL=)
	@$(PY) -m eval.judge $(OUT) --judge-model '$(JUDGE_MODEL)' --profile $(PROFILE) --store $(STORE)

# Both always ask, as `disclosure` does: a second time takes seconds, and the files are those of the variables given.
traits: $(if $(PAIRS),,$(MINE)) $(SERVED) | $(READY)  ## What gives the human-like side of PAIRS away: statements by a model, grouped and merged to a rubric
	@$(SERVE) $(PY) -m datagen.traits.propose $(MINE) $(TRAITS)/statements.jsonl --profile $(PROFILE) --store $(STORE)
	@$(if $(filter-out 0,$(MEDOIDS)),,$(SERVE)) $(PY) -m datagen.traits.cluster $(TRAITS)/statements.jsonl $(TRAITS)/rubric.json --profile $(PROFILE) --store $(STORE) $(if $(filter-out 0,$(MEDOIDS)),--medoids)

rate: $(if $(PAIRS),,$(MINE)) $(if $(JUDGE_MODEL),,$(SERVED)) | $(READY)  ## A judge model rates both sides of PAIRS on the traits of RUBRIC (JUDGE_MODEL=, PREVIEW=6 for the cost)
	@$(if $(JUDGE_MODEL),,$(SERVE)) $(PY) -m datagen.traits.rate $(MINE) $(TRAITS)/ratings.jsonl --rubric $(RUBRIC) --profile $(PROFILE) --store $(STORE) \
	  $(if $(JUDGE_MODEL),--judge-model '$(JUDGE_MODEL)') $(if $(PREVIEW),--preview $(PREVIEW))

score: | $(READY)  ## How human-like TEXTS are, trait by trait: answers of two models, a preference set, or any texts (WEIGHTS=)
	@$(if $(TEXTS),,echo 'error: name a file: make score TEXTS=out/tiny/answers.jsonl' >&2; exit 1)
	@$(PY) -m eval.score '$(TEXTS)' $(if $(WEIGHTS),--weights '$(WEIGHTS)')

traits-eval: | $(READY)  ## Learn the human-likeness score from FIT, and say what it is worth: cross-validated, or on TEST (RATINGS= of a judge)
	@$(if $(FIT),,echo 'error: name a contrastive set: make traits-eval FIT=games.jsonl' >&2; exit 1)
	@$(PY) -m eval.likeness '$(FIT)' $(if $(TEST),--test '$(TEST)') $(if $(RATINGS),--ratings '$(RATINGS)') $(if $(TEST_RATINGS),--test-ratings '$(TEST_RATINGS)')

reward: $(REWARD_DATA)  ## Pairs that the human-likeness score makes of K answers of MODEL and the two of the set (WEIGHTS=): data/reward-<name>/

vote-plan: | $(READY)  ## How many votes and raters a study needs for an effect or an interval (PLAN=)
	@$(PY) -m eval.voteplan --study $(STUDY) $(PLAN)

vote: | $(READY)  ## The voting page of STUDY at 127.0.0.1:7860 (password in STUDY_PASSWORD, organiser's token in STUDY_ADMIN_TOKEN)
	@$(PY) -m eval.ballot --study $(STUDY)
	@$(PY) -m eval.vote $(VOTES) --study $(STUDY)

vote-demo: $(OUT)/answers.jsonl  ## The whole study with simulated raters who vote through the real page, report included, in two minutes
	@$(PY) -m eval.raters --study $(STUDY) $(RATERS)

publish-votes: | $(READY)  ## Write the card of a study's votes and push them to REPO (DRY_RUN=1: only write; FOUND='how raters were found')
	@$(PY) -m eval.votes $(VOTES) --push '$(REPO)' $(if $(filter-out 0,$(DRY_RUN)),--dry-run) $(if $(filter-out 0,$(PUBLIC)),--public) $(if $(FOUND),--found '$(FOUND)') $(if $(LICENCE),--licence '$(LICENCE)')

vote-report: | $(READY)  ## Table 5 with clustered intervals, and all that reviewers ask of a study of votes
	@$(PY) -m eval.studyreport $(VOTES)

# Always asked for: finished dialogues are kept, and what the store holds is not asked again.
roleplay: $(SERVED_PAIR) | $(READY)  ## Dialogues between a model that plays a person with a goal and a chatbot (ROLEPLAY=, PROFILE=)
	@$(SERVE_PAIR) $(PY) -m datagen.roleplay.run --config $(ROLEPLAY) --profile $(PROFILE) --store $(STORE)

roleplay-pairs: $(SERVED_PAIR) | $(READY)  ## Preference pairs of several turns from such dialogues; then `make train PAIRS=` (ROLEPLAY=, PROFILE=)
	@$(SERVE_PAIR) $(PY) -m datagen.roleplay.prefer --config $(ROLEPLAY) --profile $(PROFILE) --store $(STORE)

roleplay-report: | $(READY)  ## Turns, failures and lexical diversity of role-played dialogues, by inquirer and persona (SETS=)
	@$(PY) -m eval.roleplay $(addprefix data/roleplay/,$(or $(SETS),$(PROFILE)))

# The collection asks the responder of its design: the embedded model's server runs beside the page, unless you have an endpoint of your own.
OWN_SERVER = $(if $(filter undefined,$(origin OPENAI_BASE_URL)),$(TINY_GGUF))
collect: $(OWN_SERVER) | $(READY)  ## The page on which people make natural dialogues, at 127.0.0.1:7860 (COLLECTION=)
	@$(PY) -m eval.collectstore --study $(COLLECTION)
	@$(if $(OWN_SERVER),$(PY) -m tiny.serve $(OWN_SERVER) --) $(PY) -m eval.collect $(COLLECT) --study $(COLLECTION)

detect: | $(READY)  ## The page of a detection study, at 127.0.0.1:7860: which of two dialogues is artificial? (DETECTION=)
	@$(PY) -m eval.detectdesign --study $(DETECTION)
	@$(PY) -m eval.detect $(DETECT) --study $(DETECTION)

detect-report: | $(READY)  ## Undetectability with intervals, mixed models, letters, beside the paper's Tables 3 and 10
	@$(PY) -m eval.detectionreport $(DETECT)

report: $(OUT)/report.html  ## One HTML file (and Markdown) with every table and figure of a run

test: $(READY) $(READY_EVAL)  ## Run the tests (no network, no GPU; PYTEST_ARGS='-m slow' for the slow ones)
	@$(PY) -m pytest $${PYTEST_ARGS:-}

lint: $(READY)  ## Check style
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .

tiny: $(READY)  ## Build the embedded model anew from tiny/text (4 minutes); the stored one is what this gives
	@$(PY) -m tiny.build

tiny-inquirer: $(READY)  ## Build the second embedded model, which plays the person in dialogues, anew (5 minutes)
	@$(PY) -m tiny.inquirer

clean:  ## Delete what is free to make again; keeps replies, data sets, adapters and merged models
	rm -rf out/items* out/leaderboard.* out/leaderboard/datasets out/*/prepared out/*/publish out/*/report.* out/*/margins.* out/*/training.* out/*/*.gguf out/*.gguf out/serve-*.log $(filter-out data/traits/%,$(wildcard data/*/*/)) .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean:  ## Delete everything that git does not keep, paid replies and trained models too (asks first)
	@read -r -p 'This deletes .venv, .venv-eval, data/ with every paid reply, and out/ with every trained model. Type yes to go on: ' answer && [ "$$answer" = yes ] || { echo 'nothing deleted'; exit 1; }
	rm -rf .venv .venv-eval data out

# ---------------------------------------------------------------- environment

# axe-core for the browser tests, in a package that carries it; what that would bring along, a browser among it, is not needed.
AXE := axe-playwright-python==0.1.8
# torch first: Axolotl then keeps the build that suits this machine (CPU or CUDA).
$(READY): 
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { echo 'error: $(PYTHON) is not Python 3.10 to 3.13; name one with PYTHON=' >&2; exit 1; }
	@echo 'making .venv: about 3 minutes, log in .venv/setup.log'
	@$(PYTHON) -m venv .venv
	@pip=".venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile"; \
	{ $$pip "$$(grep '^torch==' requirements.txt)" && $$pip -r requirements.txt -c constraints.txt && $$pip --no-deps $(AXE) \
	  && { ! command -v nvidia-smi >/dev/null || $$pip --no-build-isolation -r requirements-gpu.txt; }; } > .venv/setup.log 2>&1 \
	|| { tail -n 5 .venv/setup.log >&2; echo 'error: the installation failed; its log is .venv/setup.log, and `make setup` tries again' >&2; exit 1; }
	@rm -f .venv/ready-*; touch $@

# IFEval splits sentences with nltk's punkt_tab, which nltk fetches from a place of its own; a package that carries it comes from where pip gets all others.
PUNKT := llama-index-core==0.14.25
$(READY_EVAL): | $(READY)
	@echo 'making .venv-eval: about 2 minutes, log in .venv-eval/setup.log'
	@$(PYTHON) -m venv .venv-eval
	@pip=".venv-eval/bin/python -m pip --quiet --disable-pip-version-check"; english=tokenizers/punkt_tab/english; \
	{ $$pip install --no-compile "$$(grep '^torch==' requirements-eval.txt)" && $$pip install --no-compile -r requirements-eval.txt -c constraints-eval.txt \
	  && $$pip download --no-deps --dest .venv-eval/carrier $(PUNKT) \
	  && .venv-eval/bin/python -m zipfile -e .venv-eval/carrier/*.whl .venv-eval/carrier && mkdir -p .venv-eval/nltk_data/$$english \
	  && cp .venv-eval/carrier/llama_index/core/_static/nltk_cache/$$english/* .venv-eval/nltk_data/$$english/ && rm -r .venv-eval/carrier; } > .venv-eval/setup.log 2>&1 \
	|| { tail -n 5 .venv-eval/setup.log >&2; echo 'error: the installation failed; its log is .venv-eval/setup.log, and the same command tries again' >&2; exit 1; }
	@rm -f .venv-eval/ready-*; touch $@

# ---------------------------------------------------------------- data

# What a stage's result depends on, in one line; rewritten only when that changes.
$(DATA)/questions.key $(DATA)/pairs.key $(DATA)/honest.key $(sort $(READY_DATA:stats.json=format.key) $(PLAIN_DATA:stats.json=format.key)): FORCE | $(READY)
	@mkdir -p $(@D)
	@$(PY) -m datagen.config --profile $(PROFILE) --stage $(basename $(@F)) --base axolotl/$(MODEL).yaml $(if $(filter $(PLAIN_DATA:stats.json=format.key),$@),,$(if $(VARIANT),--variant $(VARIANT))) > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

$(DATA)/questions.jsonl: $(DATA)/questions.key $(wildcard $(QUESTIONS) $(FILL)) $(SERVED) datagen/questions.py datagen/near.py | $(READY)
	@echo '== questions'
	@$(if $(QUESTIONS),,$(SERVE)) $(PY) -m datagen.questions $@ --profile $(PROFILE) --store $(STORE) $(if $(QUESTIONS),--from $(QUESTIONS)) $(if $(FILL),--fill $(FILL))

$(PART)/pairs.jsonl: $(DATA)/pairs.key $(DATA)/questions.jsonl datagen/pairs.py datagen/filters.py | $(READY)
	@echo '== pairs'
	@$(SERVE) $(PY) -m datagen.pairs $(DATA)/questions.jsonl $@ --profile $(PROFILE) --store $(STORE) $(if $(SHARD),--shard $(SHARD))

$(DATA)/honest-%.jsonl: $(DATA)/honest.key $(SERVED) datagen/honest.py datagen/filters.py eval/honesty.py | $(READY)
	@echo '== honest answers about being an AI'
	@$(SERVE) $(PY) -m datagen.honest $@ --pairs $* --profile $(PROFILE) --store $(STORE)

$(sort $(READY_DATA) $(PLAIN_DATA)): %/stats.json: %/format.key $(if $(PAIRS),$(wildcard $(PAIRS)),$(DATA)/pairs.jsonl) $(HONEST_DATA) datagen/format.py datagen/near.py datagen/balance.py datagen/emojis.py | $(READY)
	@echo '== format'
	@$(PY) -m datagen.format $(or $(PAIRS),$(DATA)/pairs.jsonl) $(@D) --base axolotl/$(MODEL).yaml --profile $(PROFILE) $(if $(filter $(PLAIN_DATA),$@),,$(VARIED))

ifneq ($(REWARDED),)
$(READY_DATA): $(REWARD_DATA)
endif

# What the pairs of a reward depend on: settings, weights and answers, by content.
$(REWARD_DATA:jsonl=key): FORCE $(WEIGHTS) | $(READY)
	@mkdir -p $(@D)
	@{ $(PY) -m datagen.config --profile $(PROFILE) --stage reward; echo '$(MODEL) $(BASE_MODEL) $(K)'; sha256sum $(or $(WEIGHTS),eval/weights/turn.json) $(CANDIDATES) | cut -d' ' -f1; } > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

$(REWARD_DATA): $(REWARD_DATA:jsonl=key) $(PLAIN_DATA) $(DATA)/second.json $(if $(filter tiny,$(MODEL)),$(TINY_GGUF)) datagen/traits/reward.py datagen/filters.py eval/traits.py | $(READY)
	@echo '== pairs by the human-likeness score'
	@$(if $(filter tiny,$(MODEL)),$(PY) -m tiny.serve $(TINY_GGUF) --) $(PY) -m datagen.traits.reward $(or $(PAIRS),$(DATA)/pairs.jsonl) $@ --heldout $(PLAIN_DATA:/stats.json=/heldout.jsonl) \
	  $(if $(WEIGHTS),--weights $(WEIGHTS)) --k $(K) --base-model $(BASE_MODEL) $(if $(CANDIDATES),--candidates $(CANDIDATES)) --profile $(PROFILE) --store $(STORE)
	@cp $(DATA)/second.json $(@D)/second.json

# A second scorer from half of the training pairs; weights of the set's own from the other half, for `make reward WEIGHTS=data/<set>/weights.json`.
$(DATA)/second.json: $(PLAIN_DATA) eval/second.py | $(READY)
	@$(PY) -m eval.second $(or $(PAIRS),$(DATA)/pairs.jsonl) $@ --heldout $(PLAIN_DATA:/stats.json=/heldout.jsonl) --rest $(DATA)/other-half.jsonl

$(DATA)/weights.json: $(DATA)/second.json eval/likeness.py eval/traits.py
	@$(PY) -m eval.likeness $(DATA)/other-half.jsonl --save $@

# ---------------------------------------------------------------- training

$(OUT)/run.yaml: $(READY_DATA) FORCE | $(READY)
	@$(PY) -m train.recipe $(MODEL) --data $(<D) --run $(RUN) $(if $(ABLATION),--ablation $(ABLATION)) $(if $(SCALE),--scale $(SCALE)) $(if $(GPUS),--gpus $(GPUS))

$(OUT)/done: $(OUT)/run.yaml
	@echo '== train'
	@$(PY) -m train.launch $(OUT) $(if $(GPUS),--gpus $(GPUS))

$(OUT)/margins.svg: $(OUT)/done train/monitor.py
	@$(PY) -m train.monitor $(OUT) --data $(READY_DATA:/stats.json=)

$(OUT)/heldout.json: $(OUT)/done train/heldout.py
	@$(PY) -m train.heldout $(OUT) --data $(READY_DATA:/stats.json=)

$(OUT)/merged/merge.json: $(OUT)/done train/merge.py
	@echo '== merge'
	@$(PY) -m train.merge $(OUT) --data $(READY_DATA:/stats.json=)

# ---------------------------------------------------------------- evaluation

$(TINY_GGUF): tiny/model/model.safetensors tiny/convert.py | $(READY)
	@$(PY) -m tiny.convert tiny/model $@

$(INQUIRER_GGUF): tiny/inquirer/model.safetensors tiny/convert.py | $(READY)
	@$(PY) -m tiny.convert tiny/inquirer $@

$(OUT)/tuned.gguf: $(OUT)/merged/merge.json tiny/convert.py
	@$(PY) -m tiny.convert $(OUT)/merged $@

out/items.ready: eval/items.py eval/items.yaml | $(READY)
	@rm -rf out/items
	@$(PY) -m eval.items out/items
	@touch $@

# The embedded model seldom ends an answer by itself; cut short, its evaluation takes minutes.
EVALUATE = $(PY) -m eval.leaderboard $(OUT) --backend $(BACKEND) --what $(WHAT) $(if $(TASKS),--tasks '$(TASKS)') $(if $(LIMIT),--limit $(LIMIT)) \
  $(if $(ITEMS),--items $(ITEMS)) $(if $(filter out/items,$(ITEMS)),--max-gen-toks 32) $(if $(GPUS),--gpus $(GPUS)) --base-model $(BASE_MODEL) --tuned-model $(TUNED_MODEL)

$(OUT)/leaderboard.json: $(OUT)/done $(ITEMS_READY) eval/leaderboard.py eval/compare.py eval/scores.py | $(READY_EVAL)
	@echo '== leaderboard'
	@$(EVALUATE)

$(sort $(OUT)/answers.jsonl $(ANSWERS)): $(OUT)/done $(READY_DATA) eval/answers.py | $(SERVE_BOTH)
	@echo '== answers'
	@$(if $(SERVE_BOTH),$(PY) -m tiny.serve $(SERVE_BOTH) --) $(PY) -m eval.answers $(READY_DATA:/stats.json=/heldout.jsonl) $(OUT) --engine $(ENGINE) \
	  $(if $(findstring -first-,$(@F)),--limit $(LIMIT)) --profile $(PROFILE) --base-model $(BASE_MODEL) --tuned-model $(TUNED_MODEL) --store $(STORE)

# By the weights that come with the repository, so that all runs are measured alike, and by the second scorer.
$(OUT)/answers-likeness.json: $(OUT)/answers.jsonl $(SECOND) eval/score.py eval/traits.py eval/weights/turn.json
	@$(PY) -m eval.score $< --second $(SECOND)

$(OUT)/report.html: $(OUT)/margins.svg $(OUT)/heldout.json $(OUT)/merged/merge.json $(OUT)/answers-likeness.json $(if $(filter tiny,$(MODEL)),$(OUT)/leaderboard.json,$(wildcard $(OUT)/leaderboard.json)) eval/report.py eval/report.html.j2 eval/report.md.j2 eval/surface.py train/health.py
	@echo '== report'
	@$(PY) -m train.health $(OUT) --data $(READY_DATA:/stats.json=)
	@$(PY) -m eval.report $(OUT) --data $(READY_DATA:/stats.json=)
