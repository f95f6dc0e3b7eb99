/**
 * TensorDock: virtual machines by its API v2. The machines come without Docker, so cloud-init installs Docker at the
 * first boot.
 *
 * A machine that is off is still billed for its disk.
 */
import { UserError, type IDataObject } from 'n8n-workflow';

import type { ProviderApi } from './api';
import { Instances } from './instances';
import { PORT, cheapestFirst, matches, numberOrNull } from './machine';
import type { Machine, Offer, Order, Provider, States, Wish } from './machine';
import { RUN_START_SCRIPT, START_SCRIPT, joined } from './shell';

const STATES: States = {
	running: 'running',
	stopping: 'stopped',
	stopped: 'stopped',
	deleting: 'gone',
	deleted: 'gone',
	error: 'failed',
};
const LEAST_STORAGE_GB = 100;
const N_VCPUS = 8;
const RAM_GB = 32;
/**
 * The first driver branch that runs CUDA 12 (MIN_CUDA). TensorDock's list names no driver, so the machine checks its own.
 */
const LEAST_DRIVER = 525;
const REFUSED = '/run/lipsync-driver-too-old';
/** Answers /readyz in the words of a server that cannot start, so that waiting for the machine ends with the reason. */
const REFUSAL_PAGE = [
	'',
	'import http.server, json, sys',
	'class Refusal(http.server.BaseHTTPRequestHandler):',
	'    def do_GET(self):',
	'        data = json.dumps({"ready": False, "stage": "failed", "detail": sys.argv[2]}).encode()',
	'        self.send_response(503)',
	'        self.send_header("Content-Type", "application/json")',
	'        self.send_header("Content-Length", str(len(data)))',
	'        self.end_headers()',
	'        self.wfile.write(data)',
	'http.server.HTTPServer(("", int(sys.argv[1])), Refusal).serve_forever()',
	'',
].join('\n');

export function tensordock(api: ProviderApi): Provider {
	const instances = new Instances(api, '/instances', 'instance');
	return {
		title: 'TensorDock',
		offers: async (wish) => {
			const { body } = await api.call({ method: 'GET', path: '/locations' });
			const places = ((body.data as IDataObject | undefined)?.locations ?? []) as IDataObject[];
			return cheapestFirst(places.flatMap((place) => offersAt(place, wish)));
		},
		create: async (offerId, order) => {
			const [location, gpu] = [
				offerId.slice(0, offerId.indexOf(':')),
				offerId.slice(offerId.indexOf(':') + 1),
			];
			if (!offerId.includes(':')) {
				throw new UserError(`"${offerId}" is no TensorDock offer; it looks like LOCATION:GPU`);
			}
			if (order.sshKey === '') {
				throw new UserError(
					'TensorDock sets machines up with an SSH key: paste your public key into SSH Public Key',
				);
			}
			const attributes = {
				name: order.label,
				type: 'virtualmachine',
				image: 'ubuntu2404',
				resources: {
					vcpu_count: N_VCPUS,
					ram_gb: RAM_GB,
					storage_gb: Math.max(order.diskGb, LEAST_STORAGE_GB),
					gpus: { [gpu]: { count: 1 } },
				},
				location_id: location,
				useDedicatedIp: true,
				ssh_key: order.sshKey,
				cloud_init: cloudInit(order),
			};
			const { body } = await api.call({
				method: 'POST',
				path: instances.collection,
				body: { data: { type: 'virtualmachine', attributes } },
			});
			return String((body.data as IDataObject).id);
		},
		state: async (id) => {
			const body = await instances.read(id);
			return body ? machineOf(id, (body.data ?? body) as IDataObject) : instances.gone(id);
		},
		list: async () => {
			const { data } = (await instances.readAll()) as { data?: IDataObject[] | IDataObject };
			const found = Array.isArray(data) ? data : ((data?.instances ?? []) as IDataObject[]);
			return found.map((each) => machineOf(String(each.id), each));
		},
		act: async (id, action) => {
			if (action === 'destroy') return await instances.remove(id);
			const path = `${instances.path(id)}/${action}`;
			await api.call({ method: 'POST', path, isHarmless: true });
		},
	};
}

function offersAt(place: IDataObject, wish: Wish): Offer[] {
	const where = [place.city, place.country].filter(Boolean).map(String).join(', ');
	return ((place.gpus ?? []) as IDataObject[]).flatMap((each) => {
		const name = String(each.v0Name);
		const gpu = String(each.displayName ?? name);
		const memoryGb = Number(/-(\d+)gb$/.exec(name)?.[1] ?? 0);
		const isThere = Number(each.max_count ?? 0) > 0 && memoryGb >= wish.minMemoryGb;
		if (!isThere || !matches(wish.gpu, name + gpu)) return [];
		const parts = partsOf(each, Math.max(wish.diskGb, LEAST_STORAGE_GB));
		const pricePerHour = Number(each.price_per_hr) + parts;
		return [{ id: `${String(place.id)}:${name}`, gpu, memoryGb, pricePerHour, where }];
	});
}

/** The price per hour of cores, memory and disk, in USD. A price that the list does not give counts as 0. */
function partsOf(each: IDataObject, diskGb: number): number {
	const pricing = (each.pricing ?? {}) as IDataObject;
	return (
		N_VCPUS * Number(pricing.per_vcpu_hr ?? 0) +
		RAM_GB * Number(pricing.per_gb_ram_hr ?? 0) +
		diskGb * Number(pricing.per_gb_storage_hr ?? 0)
	);
}

function machineOf(id: string, data: IDataObject): Machine {
	const found = (data.attributes ?? data) as IDataObject;
	const status = String(found.status ?? '');
	return {
		id,
		state: STATES[status] ?? 'starting',
		url: urlOf(found),
		pricePerHour: numberOrNull(found.rateHourly),
		detail: status,
		label: String(found.name ?? ''),
	};
}

function urlOf(found: IDataObject): string {
	const host = String(found.ipAddress ?? '');
	if (host === '') return '';
	const forwards = found.portForwards as IDataObject | IDataObject[] | undefined;
	const outer = Array.isArray(forwards)
		? forwards.find((each) => each.internal_port === PORT)?.external_port
		: forwards?.[String(PORT)];
	return `http://${host}:${String(outer ?? PORT)}`;
}

/**
 * Turns a bare Ubuntu into our container with the GPU, on every boot: a check of the driver, Docker, NVIDIA's toolkit,
 * then the image.
 */
export function cloudInit(order: Order): string {
	const variables = {
		...order.environment,
		...(order.script === '' ? {} : { [START_SCRIPT]: order.script }),
	};
	const run = [
		...['docker', 'run', '--detach', '--restart=always', '--name=lipsync', '--gpus=all'],
		...[
			`--publish=${PORT}:${PORT}`,
			'--volume=lipsync-data:/data',
			'--volume=lipsync-weights:/weights',
		],
		...Object.entries(variables).map(([name, value]) => `--env=${name}=${value}`),
		order.image,
		...(order.script === '' ? [] : RUN_START_SCRIPT),
	];
	const toolkit = 'https://nvidia.github.io/libnvidia-container';
	const signedBy = '/usr/share/keyrings/nvidia-container-toolkit.gpg';
	const steps = [
		checkDriver(),
		'apt-get update && apt-get install -y docker.io curl gpg',
		`curl -fsSL ${toolkit}/gpgkey | gpg --dearmor -o ${signedBy}`,
		`curl -fsSL ${toolkit}/stable/deb/nvidia-container-toolkit.list | sed 's#deb https#deb [signed-by=${signedBy}] https#' > /etc/apt/sources.list.d/nvidia-container-toolkit.list`,
		'apt-get update && apt-get install -y nvidia-container-toolkit',
		'nvidia-ctk runtime configure --runtime=docker && systemctl restart docker',
		`[ -e ${REFUSED} ] || ${joined(run)}`,
	];
	// Every JSON document is a YAML document too, and JSON quotes all strings correctly.
	const config = { runcmd: steps.map((step) => ['bash', '-c', step]) };
	return `#cloud-config\n${JSON.stringify(config, null, 1)}\n`;
}

/** Shell that makes the file REFUSED and answers /readyz where the driver is older than the image needs. */
function checkDriver(): string {
	const page = joined(['python3', '-c', REFUSAL_PAGE, String(PORT)]);
	return [
		'driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2> /dev/null | head -n 1) || driver=',
		`if [ "$(printf %s "\${driver%%.*}" | tr -cd 0-9 | grep . || echo 0)" -lt ${LEAST_DRIVER} ]; then`,
		`touch ${REFUSED}`,
		`said="This host has driver \${driver:-none}, and the image needs ${LEAST_DRIVER} or newer: take another offer."`,
		`setsid ${page} "$said" > /dev/null 2>&1 < /dev/null &`,
		'fi',
	].join('\n');
}
