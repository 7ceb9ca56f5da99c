/** Texts to try, with questions: of our own for `prose`, and the one that each other model names. */

const EXAMPLES = {
  prose: {
    document:
      "The lighthouse on Skarn Island was built in 1874 by the engineer Clara Nystrom. Its lamp " +
      "burned whale oil until 1921, when it was changed to electricity. The last keeper, Jonas " +
      "Brandt, lived there with his daughter Elin. Every evening he wrote the weather into a " +
      "blue notebook. The notebooks are kept today in the harbour library of Velmar, where anyone " +
      "may read them.",
    questions: [
      "Who built the lighthouse?",
      "Who was the last keeper?",
      "Where are the notebooks kept?",
      "What did the lamp burn until 1921?",
      "Who painted the door?",
    ],
  },
};

/**
 * Return a document that fits a model, with questions about it.
 * @param {{name: string, example_document: string, example_query: string}} model
 * @returns {{document: string, questions: string[]}}
 */
export function exampleFor({ name, example_document: document, example_query: question }) {
  if (name in EXAMPLES) return EXAMPLES[/** @type {keyof typeof EXAMPLES} */ (name)];
  return { document, questions: [question] };
}
