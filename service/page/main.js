/** The page: a document is written, its memory shown and asked, and other memories opened. */

import { key, ProblemError, sendJson } from "./api.js";
import { askMemory, askNone, watchQuestions } from "./ask.js";
import { find } from "./dom.js";
import { exampleFor } from "./examples.js";
import { showHandle } from "./handle.js";
import { showVectors, watchViews } from "./heatmap.js";
import { askForKey, showKey, watchKey } from "./key.js";
import { LossChart } from "./loss.js";
import { MemoryList } from "./memories.js";
import { modelOf, offerModels } from "./models.js";
import { clearProblem, showProblem } from "./problems.js";
import { showRecall, watchSwitch } from "./recall.js";
import { showSizes } from "./sizes.js";
import { WriteForm } from "./write.js";

const PARTS = ["ask", "handle", "vectors"]; // of a memory, hidden without one

const chart = new LossChart();
const list = new MemoryList(openMemory, (id) => id === shown && startOver());
/** @type {string | null} Id of the memory that is shown. */
let shown = null;
/** @type {string | null} Id of the memory that was opened last. */
let opened = null;

const form = new WriteForm({
  onBegin: (steps) => {
    forget();
    chart.begin(steps);
  },
  onStep: (step) => chart.add(step),
  onWritten: (memory, pages, text) => {
    show(memory, text);
    showRecall(pages, memory);
    list.refresh();
  },
  onFailure: startOver,
  onMemoryFile: (file) => list.import(file),
});
find("again").addEventListener("click", () => {
  startOver();
  find("write-status").textContent = "";
  find("document").focus();
});
watchKey(start);
watchQuestions();
watchSwitch();
watchViews();
start();

/** Show what the service has for whoever asks. */
async function start() {
  startOver();
  clearProblem(find("page-problem"));
  find("key-open").hidden = !key.get();
  try {
    const [{ models }, limits] = await Promise.all([sendJson("models"), sendJson("limits")]);
    offerModels(models);
    showKey(limits);
  } catch (error) {
    if (error instanceof ProblemError && error.needsKey) askForKey(error.message);
    else showProblem(find("page-problem"), error);
    return;
  }
  await list.refresh();
}

/** Show a memory of the list, whose text is gone. @param {string} id */
async function openMemory(id) {
  opened = id;
  try {
    const memory = await sendJson(`memories/${id}`);
    if (opened !== id) return;
    if (form.abort) {
      find("memories-status").textContent = "Stop writing, or wait for its end, to open a memory.";
      return;
    }
    find("write-status").textContent = "";
    show(memory, null);
    find("gone").hidden = false;
  } catch (error) {
    showProblem(find("memories-problem"), error);
  }
}

/** @param {any} memory @param {string | null} text The document; null where it is gone. */
function show(memory, text) {
  forget();
  shown = memory.memory_id;
  const model = modelOf(memory.model);
  const example = model && exampleFor(model);
  const questions = text !== null && text === example?.document ? example.questions : [];
  find("write-form").hidden = true;
  find("document-tools").hidden = true;
  find("again").hidden = false;
  chart.finish(memory);
  showHandle(memory, questions[0] ?? "Who …?");
  showSizes(memory, model, text);
  askMemory(memory, questions);
  showVectors(memory);
  for (const part of PARTS) find(part).hidden = false;
  find("document-title").textContent = memory.name ?? "Document";
  find("document-title").focus(); // what had the focus may be hidden now
}

/** Hide the memory that was shown. */
function forget() {
  shown = null;
  askNone();
  for (const part of [...PARTS, "recall", "gone"]) find(part).hidden = true;
}

/** Offer to write again. */
function startOver() {
  forget();
  find("document-title").textContent = "Document";
  find("write-form").hidden = false;
  find("document-tools").hidden = false;
  find("again").hidden = true;
  find("descent").hidden = true;
  find("how").hidden = false;
}
