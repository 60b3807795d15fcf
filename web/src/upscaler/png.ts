/** PNG files. A canvas cannot write them: it multiplies colours by alpha, and loses those of transparent pixels. */

const TABLE = Uint32Array.from({ length: 256 }, (_, index) => {
  let value = index
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1
  return value
})
const UP = 2 // the filter of all rows: the difference to the row above

function checksum(parts: Uint8Array[]): number {
  let sum = 0xffffffff
  for (const part of parts) for (const byte of part) sum = TABLE[(sum ^ byte) & 255]! ^ (sum >>> 8)
  return (sum ^ 0xffffffff) >>> 0
}

function number(value: number): Uint8Array<ArrayBuffer> {
  const made = new Uint8Array(4)
  new DataView(made.buffer).setUint32(0, value)
  return made
}

function chunk(name: string, data: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer>[] {
  const type = new TextEncoder().encode(name)
  return [number(data.length), type, data, number(checksum([type, data]))]
}

/** @param pixels 8 bits, RGB or RGBA, row by row */
export async function encodePng(pixels: Uint8Array, width: number, height: number, channels: 3 | 4): Promise<Blob> {
  const row = width * channels
  let next = 0
  const rows = new ReadableStream<BufferSource>({
    pull(controller) {
      if (next === height) return controller.close()
      const line = new Uint8Array(row + 1)
      line[0] = UP
      const at = next * row
      for (let index = 0; index < row; index++)
        line[index + 1] = pixels[at + index]! - (next ? pixels[at + index - row]! : 0)
      next++
      controller.enqueue(line)
    },
  })
  const packed = await new Response(rows.pipeThrough(new CompressionStream("deflate"))).arrayBuffer()
  const header = new Uint8Array([...number(width), ...number(height), 8, channels === 4 ? 6 : 2, 0, 0, 0])
  const signature = new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10])
  const parts = [...chunk("IHDR", header), ...chunk("IDAT", new Uint8Array(packed)), ...chunk("IEND", new Uint8Array())]
  return new Blob([signature, ...parts], { type: "image/png" })
}
