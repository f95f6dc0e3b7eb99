/**
 * One vocabulary for the three providers of rented GPUs. The rules are those of the server's `lipsync cloud`
 * (server/lipsync_server/cloud); both are tested against the same recorded answers (tests/data/providers).
 */
export const PORT = 5000;
/** The least CUDA version of the host's driver that the server's image works with. */
export const MIN_CUDA = '12.0';

export type MachineState = 'starting' | 'running' | 'stopped' | 'failed' | 'gone';

/** A rented machine as it is now. */
export interface Machine {
	id: string;
	state: MachineState;
	/** Where its port 5000 is reached; "" while unknown. */
	url: string;
	/** In USD; null where the provider does not say. */
	pricePerHour: number | null;
	detail: string;
	label: string;
}

/** A machine for rent. */
export interface Offer {
	id: string;
	gpu: string;
	memoryGb: number;
	pricePerHour: number;
	where: string;
}

/** The offers that are wanted. */
export interface Wish {
	/** Part of a card's name; "" for all. */
	gpu: string;
	minMemoryGb: number;
	diskGb: number;
}

/** The programme of a new machine. */
export interface Order {
	image: string;
	diskGb: number;
	environment: Record<string, string>;
	/** The name by which a second try finds the machine of the first. */
	label: string;
	/** Public SSH key; TensorDock needs one. */
	sshKey: string;
}

export type Action = 'start' | 'stop' | 'destroy';

export interface Provider {
	title: string;
	/** Cheapest first. */
	offers: (wish: Wish) => Promise<Offer[]>;
	/** Rent and start a machine; gives its ID. */
	create: (offerId: string, order: Order) => Promise<string>;
	state: (id: string) => Promise<Machine>;
	list: () => Promise<Machine[]>;
	act: (id: string, action: Action) => Promise<void>;
}

/** Whether `gpu`, as a person writes it, names the card `name`: "rtx 4090" names "GeForce RTX 4090". */
export function matches(gpu: string, name: string): boolean {
	const plain = (text: string) => text.toLowerCase().replace(/[^a-z0-9]/g, '');
	return plain(name).includes(plain(gpu));
}

export function cheapestFirst(offers: Offer[]): Offer[] {
	return offers.sort((one, two) => one.pricePerHour - two.pricePerHour);
}

/** A number of an answer; null where there is none. */
export function numberOrNull(value: unknown): number | null {
	const number = typeof value === 'string' && value.trim() !== '' ? Number(value) : value;
	return typeof number === 'number' && Number.isFinite(number) ? number : null;
}

/** A machine's ID in a path. IDs come from people and from other nodes. */
export function inPath(id: string): string {
	return encodeURIComponent(id);
}
