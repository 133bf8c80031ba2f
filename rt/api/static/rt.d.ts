/**
 * The JavaScript client of rt: a session that loses nothing, over any number of connections. No dependencies.
 * Names and behaviour are those of the Python client: docs/clients.md tells them.
 * @module
 * @typedef {{type: string, stream: string, seq: number, ts: number, data: any, attempt: number | null, final: boolean}} StreamEvent
 * @typedef {{type: "gap", stream: string, epoch: string, reason: string, first: number | null, last: number | null,
 *   snapshot: {seq: number, data: any} | null, final: boolean}} Gap `first` to `last` cannot be had any more; null: nobody knows how many.
 * @typedef {"connecting" | "open" | "waiting" | "taken" | "closed"} State
 * @typedef {{state: State, delay_s: number, problem: string, error: ClientError | null}} Changed
 * @typedef {{session: string | null, cursors: Record<string, string>}} Saved
 * @typedef {{load(): Saved | Promise<Saved>, save(saved: Saved): void | Promise<void>}} CursorStore
 * @typedef {typeof DEFAULTS} Config
 * @typedef {object} Options
 * @property {string | (() => string | Promise<string>)} [token] a function is asked again before a token ends, and after it has
 * @property {CursorStore} [store] default: a SessionStore
 * @property {(changed: Changed) => void} [on_state]
 * @property {number} [open_timeout_s] default 10; Infinity: for as long as it takes
 * @property {AbortSignal} [signal] leaves; what was given out last counts as not processed
 * @property {"auto" | "ws" | "sse"} [transport] auto: Server-Sent Events where no WebSocket opens and HTTP is answered
 * @property {any} [WebSocket] default: the global one
 * @property {Partial<Config>} [config]
 */
export type StreamEvent = {
    type: string;
    stream: string;
    seq: number;
    ts: number;
    data: any;
    attempt: number | null;
    final: boolean;
};
export type Gap = {
    type: "gap";
    stream: string;
    epoch: string;
    reason: string;
    first: number | null;
    last: number | null;
    snapshot: {
        seq: number;
        data: any;
    } | null;
    final: boolean;
};
export type State = "connecting" | "open" | "waiting" | "taken" | "closed";
export type Changed = {
    state: State;
    delay_s: number;
    problem: string;
    error: ClientError | null;
};
export type Saved = {
    session: string | null;
    cursors: Record<string, string>;
};
export type CursorStore = {
    load(): Saved | Promise<Saved>;
    save(saved: Saved): void | Promise<void>;
};
export type Config = typeof DEFAULTS;
export type Options = {
    /**
     * a function is asked again before a token ends, and after it has
     */
    token?: string | (() => string | Promise<string>);
    /**
     * default: a SessionStore
     */
    store?: CursorStore;
    on_state?: (changed: Changed) => void;
    /**
     * default 10; Infinity: for as long as it takes
     */
    open_timeout_s?: number;
    /**
     * leaves; what was given out last counts as not processed
     */
    signal?: AbortSignal;
    /**
     * auto: Server-Sent Events where no WebSocket opens and HTTP is answered
     */
    transport?: "auto" | "ws" | "sse";
    /**
     * default: the global one
     */
    WebSocket?: any;
    config?: Partial<Config>;
};
/** Times in seconds. */
export declare const DEFAULTS: {
    backoff_s: number;
    backoff_cap_s: number;
    connect_timeout_s: number;
    ack_every_s: number;
    max_pending: number;
    max_pending_bytes: number;
    max_waiting: number;
    max_waiting_bytes: number;
};
/** The root of what is thrown on purpose. */
export declare class ClientError extends Error {
    name: string;
}
/** The server's answer to a command. */
export declare class Refused extends ClientError {
    /** @type {string} */
    code: string;
    temporary: boolean;
    /** @type {number | null} */
    retry_after_ms: number | null;
    /** @type {{loc: string[], msg: string}[] | null} */
    details: {
        loc: string[];
        msg: string;
    }[] | null;
    /** @type {Record<string, any>} */
    facts: Record<string, any>;
    name: string;
    /** @param {any} frame */
    constructor(frame: any);
}
/** There is no connection, and none is being made. */
export declare class Disconnected extends ClientError {
    name: string;
}
/** Not to be tried again as it is: `code` is the close code. */
export declare class Stopped extends Disconnected {
    code: number;
    reason: string;
    name: string;
    /** @param {number} code @param {string} reason */
    constructor(code: number, reason: string);
}
/** Another connection resumed this session; `reconnect()` takes it back. */
export declare class SessionTaken extends Disconnected {
    name: string;
}
/** Nobody has answered in time. */
export declare class Unreachable extends Disconnected {
    name: string;
}
/** This side has closed it. */
export declare class Closed extends Disconnected {
    name: string;
}
/** Too many commands wait for their answers: nothing was sent. */
export declare class OutboxFull extends ClientError {
    commands: number;
    name: string;
    /** @param {number} commands */
    constructor(commands: number);
}
/** The session was lost before this command was answered. */
export declare class OutcomeUnknown extends ClientError {
    name: string;
}
/** What was asked for cannot be whole. */
export declare class EventsLost extends ClientError {
    stream: string;
    first: number | null;
    last: number | null;
    name: string;
    /** @param {string} stream @param {number | null} [first] @param {number | null} [last] */
    constructor(stream: string, first?: number | null, last?: number | null);
}
/** The job ended as `job.failed`. */
export declare class JobFailed extends ClientError {
    job_id: string;
    /** @type {string} */
    code: string;
    temporary: boolean;
    name: string;
    /** @param {string} job_id @param {any} error */
    constructor(job_id: string, error: any);
}
/** The job ended as `job.cancelled`. */
export declare class JobCancelled extends ClientError {
    job_id: string;
    by: string | null;
    name: string;
    /** @param {string} job_id @param {string | null} by */
    constructor(job_id: string, by: string | null);
}
/** Events and gaps, in order, each once, through any number of connections. For one reader at a time; `close()` leaves. */
declare class Reader {
    get stream(): string;
    [Symbol.asyncIterator](): this;
    /** @returns {Promise<IteratorResult<StreamEvent | Gap, undefined>>} */
    next(): Promise<IteratorResult<StreamEvent | Gap, undefined>>;
    /**
     * Calls `listener` with each item of this type ("*": with all, "gap": what is lost), "end" and "error" once. An item
     * is processed when its listeners have returned. Instead of an iteration, not beside it.
     * @param {string} type @param {(item: any) => unknown} listener
     */
    on(type: string, listener: (item: any) => unknown): this;
    /** Leaves the stream; what was given out last counts as not processed. */
    close(): void;
}
/** A stream's events: see `Client.subscribe`. */
export declare class Subscription extends Reader {
    /** Waits until the server follows the stream: from then on nothing is missed. @returns {Promise<this>} */
    ready(): Promise<this>;
}
/** Text that stands from `start` on: `shown = shown.slice(0, piece.start) + piece`. */
export declare class Piece {
    text: string;
    start: number;
    /** @param {string} text @param {number} start */
    constructor(text: string, start: number);
    toString(): string;
}
/** A job's events up to the terminal one, its text, its result: take one of them, or one after the other. */
export declare class Job extends Reader {
    /** null before the server has accepted it. @returns {string | null} */
    get id(): string | null;
    /** The text of all that was taken so far. */
    get said(): string;
    /** The job's id, once the server has accepted it: from then on it ends, whoever is killed. */
    accepted(): Promise<string>;
    /** What the job's function returned. Throws JobFailed, JobCancelled, EventsLost. @returns {Promise<any>} */
    result(): Promise<any>;
    /**
     * `await` it for the whole text, or iterate over its pieces as they come; the first is all that was said so far.
     * @returns {PromiseLike<string> & AsyncIterable<Piece>}
     */
    text(): PromiseLike<string> & AsyncIterable<Piece>;
    /** Asks for the job's end; its status. */
    cancel(): Promise<string>;
    /** Feeds the job; the seq of the input. @param {any} data @param {{final?: boolean}} [options] */
    input(data: any, options?: {
        final?: boolean;
    }): Promise<number>;
}
/** A session with a server, made by `connect`. Commands wait through lost connections, and are sent again with the same id. */
export declare class Client {
    #private;
    get state(): State;
    /** "ws", or "sse" where WebSockets are blocked. */
    get transport(): "sse" | "ws";
    /** The session's id: a credential. */
    get session(): string;
    get subject(): string;
    get session_stream(): string;
    get user_stream(): string;
    /** Calls `listener` with each change of state, from now on; returns what ends that. @param {(changed: Changed) => void} listener */
    on_state(listener: (changed: Changed) => void): () => void;
    /**
     * Submits a job. Throws OutboxFull, Refused (too_large) and Disconnected at once: then nothing was sent.
     * @param {string} job @param {Record<string, any>} [input]
     * @param {{stream?: string, delay_s?: number, timeout_s?: number, idempotency_key?: string, signal?: AbortSignal}} [options]
     */
    submit(job: string, input?: Record<string, any>, { signal, ...options }?: {
        stream?: string;
        delay_s?: number;
        timeout_s?: number;
        idempotency_key?: string;
        signal?: AbortSignal;
    }): Job;
    /**
     * A job that was submitted elsewhere: from where this session has processed it, otherwise from its start.
     * @param {string} job_id @param {{cursor?: string | null, signal?: AbortSignal}} [options]
     */
    job(job_id: string, { cursor, signal }?: {
        cursor?: string | null;
        signal?: AbortSignal;
    }): Job;
    /**
     * A stream's events: after `cursor` ("0": from the start), or else from where this session has processed it, or else from now on.
     * @param {string} stream @param {{cursor?: string | null, signal?: AbortSignal}} [options]
     */
    subscribe(stream: string, { cursor, signal }?: {
        cursor?: string | null;
        signal?: AbortSignal;
    }): Subscription;
    /**
     * Appends an event to a stream; its seq. A signal ends the waiting, and does not take the command back.
     * @param {string} stream @param {any} data @param {{event?: string, idempotency_key?: string, signal?: AbortSignal}} [options]
     * @returns {Promise<number>}
     */
    publish(stream: string, data: any, { event, idempotency_key, signal }?: {
        event?: string;
        idempotency_key?: string;
        signal?: AbortSignal;
    }): Promise<number>;
    /** Sends an event that the application registered; what its handler answers. @param {string} type @param {any} [data] @param {{signal?: AbortSignal}} [options] */
    call(type: string, data?: any, { signal }?: {
        signal?: AbortSignal;
    }): Promise<any>;
    /** Asks for a job's end; its status. @param {string} job_id */
    cancel(job_id: string): Promise<string>;
    /** Feeds a job; the seq of the input. @param {string} job_id @param {any} data @param {{final?: boolean}} [options] */
    input(job_id: string, data: any, options?: {
        final?: boolean;
    }): Promise<number>;
    /** Takes a session back after SessionTaken; while waiting for the next try, tries now. */
    reconnect(): void;
    /** Leaves: what was given out is processed, and acknowledged. */
    close(): Promise<void>;
}
/**
 * A client of the server at `url` (http, https, ws or wss; "/": the page's own), once it has answered. Throws Unreachable, Stopped, SessionTaken.
 * @param {string} url @param {Options} [options] @returns {Promise<Client>}
 */
export declare function connect(url: string, options?: Options): Promise<Client>;
/** Survives the client, and not the page. */
export declare class MemoryStore {
    /** @type {Saved} */
    saved: Saved;
    /** @returns {Saved | Promise<Saved>} */
    load(): Saved | Promise<Saved>;
    /** @param {Saved} saved */
    save(saved: Saved): void;
}
/** Keeps session and cursors for a reload of this tab. A tab that was duplicated begins anew: a lock tells which one has the session. */
export declare class SessionStore extends MemoryStore {
    #private;
    name: string;
    /** @param {string} name one for each client of a page, and for each user who may sign in to it */
    constructor(name: string);
    load(): Promise<Saved>;
    /** @param {Saved} saved */
    save(saved: Saved): void;
}
export {};
