/**
 * The calls that the APIs of all three providers share: read one rented machine, and delete one.
 *
 * A provider names its machines differently ("instance", "pod") and keeps them under a path of its own.
 */
import type { IDataObject } from 'n8n-workflow';

import type { ProviderApi } from './api';
import type { Machine } from './machine';

export class Instances {
	constructor(
		private readonly api: ProviderApi,
		/** The path of the list, such as "/pods". */
		readonly collection: string,
		/** The provider's own word for a machine. */
		private readonly noun: string,
		/** Vast.ai ends the path of a machine with a slash. */
		private readonly ending = '',
	) {}

	/** The path of one machine. IDs come from people and from other nodes, so the ID is escaped. */
	path(id: string): string {
		return `${this.collection}/${encodeURIComponent(id)}${this.ending}`;
	}

	/** The provider's answer about one machine; undefined if the machine no longer exists. */
	async read(id: string): Promise<IDataObject | undefined> {
		const { status, body } = await this.api.call({
			method: 'GET',
			path: this.path(id),
			accept: [404],
		});
		return status === 404 ? undefined : body;
	}

	/** The provider's answer about all machines of the account. */
	async readAll(): Promise<IDataObject> {
		const { body } = await this.api.call({
			method: 'GET',
			path: `${this.collection}${this.ending}`,
		});
		return body;
	}

	/** Delete one machine for good. A machine that no longer exists is no error. */
	async remove(id: string): Promise<void> {
		await this.api.call({ method: 'DELETE', path: this.path(id), accept: [404] });
	}

	/** The description of a machine that no longer exists. */
	gone(id: string): Machine {
		const detail = `There is no such ${this.noun} any more`;
		return { id, state: 'gone', url: '', pricePerHour: null, detail, label: '' };
	}
}
