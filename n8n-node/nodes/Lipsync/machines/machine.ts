/**
 * The types that the three providers of rented GPUs share. The server's `lipsync cloud` (server/lipsync_server/cloud)
 * follows the same rules; both are tested against the same recorded answers (tests/data/providers).
 */
export const PORT = 5000;
/** The lowest CUDA version of the host's driver that the server's image works with. */
export const MIN_CUDA = '12.0';

export type MachineState = 'starting' | 'running' | 'stopped' | 'failed' | 'gone';

/** A provider's own words for the states of a machine. A word that is not listed means "starting". */
export type States = Record<string, MachineState>;

/** A rented machine as it is now. */
export interface Machine {
	id: string;
	state: MachineState;
	/** The address that reaches port 5000 of the machine; "" while unknown. */
	url: string;
	/** In USD; null where the provider does not name it. */
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

/** The machine that the user looks for. */
export interface Wish {
	/** Part of a card's name; "" for all. */
	gpu: string;
	minMemoryGb: number;
	diskGb: number;
}

/** The software and the size of a new machine. */
export interface Order {
	image: string;
	/** Run with bash in the container; "" runs the image's own program. */
	script: string;
	diskGb: number;
	environment: Record<string, string>;
	/** The name of the machine. A second try finds the machine of the first try by this name. */
	label: string;
	/** Public SSH key; TensorDock needs one. */
	sshKey: string;
}

export type Action = 'start' | 'stop' | 'destroy';

export interface Provider {
	title: string;
	/** Cheapest first. */
	offers: (wish: Wish) => Promise<Offer[]>;
	/** Rent and start a machine. Returns the ID of the machine. */
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

/** A number from a provider's answer; null if the value is no number. */
export function numberOrNull(value: unknown): number | null {
	const number = typeof value === 'string' && value.trim() !== '' ? Number(value) : value;
	return typeof number === 'number' && Number.isFinite(number) ? number : null;
}
