/** Image files to pixels and back. Colours are those of sRGB. */

import { encodePng } from "./png"
import type { Plane } from "./tiling"

export interface Picture {
  rgb: Plane
  /** null where all of the image is opaque */
  alpha: Plane | null
}

export type Format = "png" | "webp" | "jpeg"

const STRIP = 1024 // rows that are read at once where there is alpha

/** The picture in a file, upright. @throws Error where the browser cannot read it */
export async function decode(file: Blob): Promise<Picture> {
  const bitmap = await createImageBitmap(file, { premultiplyAlpha: "none" })
  const { width, height } = bitmap
  try {
    const seen = drawn(bitmap)
    return hasAlpha(seen) ? parted(straight(bitmap) ?? seen, width, height, true) : parted(seen, width, height, false)
  } finally {
    bitmap.close()
  }
}

/** Pixels by way of a canvas: exact where they are opaque. */
function drawn(bitmap: ImageBitmap): Uint8ClampedArray {
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d", { willReadFrequently: true })!
  context.drawImage(bitmap, 0, 0)
  return context.getImageData(0, 0, bitmap.width, bitmap.height).data
}

/** Pixels whose colours have not been multiplied by alpha, by way of a texture; null without WebGL. */
function straight(bitmap: ImageBitmap): Uint8Array | null {
  const { width, height } = bitmap
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2")
  if (!gl || Math.max(width, height) > (gl.getParameter(gl.MAX_TEXTURE_SIZE) as number)) return null
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE)
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture())
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap)
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer())
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, gl.getParameter(gl.TEXTURE_BINDING_2D), 0)
  const pixels = new Uint8Array(width * height * 4)
  for (let top = 0; top < height; top += STRIP) {
    const rows = Math.min(STRIP, height - top)
    gl.readPixels(0, top, width, rows, gl.RGBA, gl.UNSIGNED_BYTE, pixels.subarray(top * width * 4, (top + rows) * width * 4))
  }
  const failed = gl.getError() !== gl.NO_ERROR
  gl.getExtension("WEBGL_lose_context")?.loseContext()
  return failed ? null : pixels
}

function hasAlpha(pixels: Uint8ClampedArray): boolean {
  for (let at = 3; at < pixels.length; at += 4) if (pixels[at] !== 255) return true
  return false
}

function parted(pixels: Uint8ClampedArray | Uint8Array, width: number, height: number, alpha: boolean): Picture {
  const colours = new Uint8Array(width * height * 3)
  const opacity = alpha ? new Uint8Array(width * height) : null
  for (let from = 0, to = 0, at = 0; from < pixels.length; at++) {
    colours[to++] = pixels[from++]!
    colours[to++] = pixels[from++]!
    colours[to++] = pixels[from++]!
    if (opacity) opacity[at] = pixels[from]!
    from++
  }
  const rgb: Plane = { data: colours, width, height, channels: 3 }
  return { rgb, alpha: opacity && { data: opacity, width, height, channels: 1 } }
}

function joined({ rgb, alpha }: Picture): Uint8ClampedArray<ArrayBuffer> {
  const made = new Uint8ClampedArray(rgb.width * rgb.height * 4)
  for (let from = 0, to = 0, at = 0; to < made.length; at++) {
    made[to++] = rgb.data[from++]!
    made[to++] = rgb.data[from++]!
    made[to++] = rgb.data[from++]!
    made[to++] = alpha ? alpha.data[at]! : 255
  }
  return made
}

/**
 * A picture as a file. JPEG has no transparency: it is laid on white.
 *
 * @param quality 1..100, of WebP and JPEG
 * @throws Error where the browser cannot write the format
 */
export async function encode(picture: Picture, format: Format, quality: number): Promise<Blob> {
  const { width, height } = picture.rgb
  if (format === "png")
    return picture.alpha
      ? encodePng(new Uint8Array(joined(picture).buffer), width, height, 4)
      : encodePng(picture.rgb.data, width, height, 3)
  const canvas = new OffscreenCanvas(width, height)
  const context = canvas.getContext("2d")
  if (!context) throw new Error(`This browser cannot write ${width}x${height} pixels as ${format}; choose png.`)
  context.putImageData(new ImageData(joined(picture), width, height), 0, 0)
  if (format === "jpeg") {
    context.globalCompositeOperation = "destination-over"
    context.fillStyle = "#fff"
    context.fillRect(0, 0, width, height)
  }
  const made = await canvas.convertToBlob({ type: `image/${format}`, quality: quality / 100 })
  if (made.type !== `image/${format}`) throw new Error(`This browser cannot write ${format}; choose png.`)
  return made
}
