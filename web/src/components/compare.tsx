import { useState } from "preact/hooks"
import { t } from "../lib/i18n"
import { useUrl } from "./image_input"
import { ServerImage } from "./server_image"

const ZOOMS = [1, 2, 4, 8]

/** Two images on each other with a slider between them, and zoom. The left one is stretched to the size of the right. */
export function Compare(props: { before: Blob | string; after: string; alt: string }) {
  const [share, setShare] = useState(50)
  const [zoom, setZoom] = useState(1)
  const own = useUrl(props.before instanceof Blob ? props.before : null)
  return (
    <div class="compare">
      <div class="compare-window" tabIndex={0} role="group" aria-label={props.alt}>
        <div class="compare-images" style={{ width: `${100 * zoom}%`, "--share": `${share}%` }}>
          <ServerImage path={props.after} alt={`${props.alt}: ${t("compare.after")}`} />
          <div class="compare-before">
            {props.before instanceof Blob ? (
              own && <img src={own} alt={`${props.alt}: ${t("compare.before")}`} />
            ) : (
              <ServerImage path={props.before} alt={`${props.alt}: ${t("compare.before")}`} />
            )}
          </div>
        </div>
      </div>
      <div class="compare-tools">
        <span aria-hidden="true">{t("compare.before")}</span>
        <input
          type="range"
          min="0"
          max="100"
          value={share}
          aria-label={t("compare.slider")}
          onInput={event => setShare(Number(event.currentTarget.value))}
        />
        <span aria-hidden="true">{t("compare.after")}</span>
        <div class="segments" role="group" aria-label={t("compare.zoom")}>
          {ZOOMS.map(one => (
            <button key={one} type="button" aria-pressed={zoom === one} onClick={() => setZoom(one)}>
              {one}×
            </button>
          ))}
        </div>
      </div>
    </div>
  )
}
