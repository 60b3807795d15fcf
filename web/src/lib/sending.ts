import { signal } from "@preact/signals"
import { fileOf } from "../components/server_image"
import { go } from "./route"

/** Images that one page hands to another. */
export const upscaleFiles = signal<File[]>([])
export const editImages = signal<Blob[]>([])

const MOST_EDITED = 5

export function addToUpscale(files: File[]): void {
  upscaleFiles.value = [...upscaleFiles.value, ...files]
}

export function addToEdit(files: Blob[]): void {
  editImages.value = [...editImages.value, ...files].slice(0, MOST_EDITED)
}

/** Fetch an image of the service and give it to a page. @throws Refused */
export async function send(path: string, name: string, to: "upscale" | "edit"): Promise<void> {
  const blob = await fileOf(path)
  const file = new File([blob], name, { type: blob.type })
  if (to === "upscale") addToUpscale([file])
  else editImages.value = [file]
  go(to)
}
