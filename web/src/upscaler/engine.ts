/** ONNX Runtime in a worker: with WebGPU where the browser has it, else with WebAssembly on all cores. */

import type { InferenceSession, Tensor } from "onnxruntime-web"
import glueUrl from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url"
import wasmUrl from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url"
import gpuGlueUrl from "onnxruntime-web/ort-wasm-simd-threaded.jspi.mjs?url"
import gpuWasmUrl from "onnxruntime-web/ort-wasm-simd-threaded.jspi.wasm?url"
import type { Plane } from "./tiling"

export type EngineName = "webgpu" | "wasm"

const MOST_THREADS = 8

interface Files {
  mjs: string
  wasm: string
}

const FILES: Record<EngineName, Files> = {
  webgpu: { mjs: absolute(gpuGlueUrl), wasm: absolute(gpuWasmUrl) },
  wasm: { mjs: absolute(glueUrl), wasm: absolute(wasmUrl) },
}

function absolute(url: string): string {
  return new URL(url, import.meta.url).href
}

interface Adapter {
  isFallbackAdapter?: boolean
  info?: { isFallbackAdapter?: boolean }
}

/** What this browser runs networks with. WebGPU in software is slower than WebAssembly, and does not count. */
export async function usualEngine(): Promise<EngineName> {
  const gpu = (navigator as { gpu?: { requestAdapter(): Promise<Adapter | null> } }).gpu
  if (!gpu || !("Suspending" in WebAssembly)) return "wasm" // the build with WebGPU waits for it by JSPI
  const adapter = await gpu.requestAdapter().catch(() => null)
  return adapter && !adapter.isFallbackAdapter && !adapter.info?.isFallbackAdapter ? "webgpu" : "wasm"
}

async function library(name: EngineName): Promise<typeof import("onnxruntime-web")> {
  return name === "webgpu" ? await import("onnxruntime-web/jspi") : await import("onnxruntime-web/wasm")
}

/** Fetch the files of an engine, so that the browser has them. */
export async function fetchEngine(name: EngineName): Promise<void> {
  await library(name)
  for (const url of Object.values(FILES[name])) await (await fetch(url)).arrayBuffer()
}

/** A loaded network. */
export class Engine {
  private constructor(
    readonly name: EngineName,
    private readonly session: InferenceSession,
    private readonly tensor: typeof Tensor,
  ) {}

  static async load(name: EngineName, network: Uint8Array): Promise<Engine> {
    const ort = await library(name)
    ort.env.wasm.wasmPaths = FILES[name]
    ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1) : 1
    ort.env.logLevel = "error"
    const session = await ort.InferenceSession.create(network, {
      executionProviders: [name],
      enableMemPattern: false, // as on the server: planning nearly doubles the peak
    })
    return new Engine(name, session, ort.Tensor)
  }

  /** A window, enlarged: RGB, row by row. */
  async run(window: Plane): Promise<Uint8Array> {
    const image = new this.tensor("uint8", window.data, [1, window.height, window.width, 3])
    const { upscaled } = await this.session.run({ image })
    const data = (await upscaled!.getData()) as Uint8Array
    const made = data.slice()
    upscaled!.dispose()
    return made
  }
}
