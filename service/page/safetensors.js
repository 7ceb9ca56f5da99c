/** The first tensor of a safetensors file: eight bytes of length, a header in JSON, the numbers. */

/**
 * A matrix, row by row.
 * @typedef {{rows: number, columns: number, values: Float32Array}} Matrix
 */

/**
 * @param {ArrayBuffer} file
 * @returns {Matrix}
 * @throws {TypeError} The tensor is no matrix, or its type is unknown.
 */
export function readMatrix(file) {
  const length = Number(new DataView(file).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(file, 8, length)));
  const name = Object.keys(header).find((each) => each !== "__metadata__") ?? "";
  const { dtype, shape, data_offsets: offsets } = header[name];
  if (shape.length !== 2) throw new TypeError(`a tensor of ${shape.length} dimensions`);
  // Copied: the numbers need not begin where an array of them may.
  const data = file.slice(8 + length + offsets[0], 8 + length + offsets[1]);
  return { rows: shape[0], columns: shape[1], values: decode(dtype, data) };
}

/** @param {string} dtype @param {ArrayBuffer} data */
function decode(dtype, data) {
  if (dtype === "F32") return new Float32Array(data);
  if (dtype === "BF16") {
    const halves = new Uint16Array(data);
    return new Float32Array(Uint32Array.from(halves, (half) => half << 16).buffer);
  }
  throw new TypeError(`a tensor of ${dtype}`);
}
