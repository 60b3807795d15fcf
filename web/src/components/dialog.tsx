import type { ComponentChildren } from "preact"
import { useEffect, useId, useRef } from "preact/hooks"
import { t } from "../lib/i18n"
import { IconButton } from "./icons"

/** A modal dialog. The browser keeps the focus in it, and Escape closes it. */
export function Dialog(props: { title: string; class?: string; onClose: () => void; children: ComponentChildren }) {
  const element = useRef<HTMLDialogElement>(null)
  const id = useId()
  useEffect(() => {
    if (!element.current?.open) element.current?.showModal()
  }, [])
  return (
    <dialog
      ref={element}
      class={props.class}
      aria-labelledby={id}
      onClose={props.onClose}
      onClick={event => event.target === event.currentTarget && event.currentTarget.close()}
    >
      <div class="dialog-body">
        <header>
          <h2 id={id}>{props.title}</h2>
          <IconButton icon="close" label={t("close")} onClick={() => element.current?.close()} />
        </header>
        {props.children}
      </div>
    </dialog>
  )
}
